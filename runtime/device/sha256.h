/*!
 * \file device/sha256.h
 * \brief SHA-256 (FIPS 180-4), in pieces of any size.
 */
#ifndef HETERO_TVM_DEVICE_SHA256_H_
#define HETERO_TVM_DEVICE_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace hetero_tvm::device {

class Sha256 {
 public:
  void Add(const void* data, size_t size);

  /*! \brief The digest of everything that was added, 32 bytes. Nothing may be added afterwards. */
  std::string Digest();

 private:
  void Block(const uint8_t* block);

  std::array<uint32_t, 8> state_{0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  uint64_t size_ = 0;
};

/*! \brief `bytes` in hexadecimal digits. */
std::string Hex(const std::string& bytes);

}  // namespace hetero_tvm::device

#endif  // HETERO_TVM_DEVICE_SHA256_H_
