/*!
 * \file c_api/sha256.h
 * \brief SHA-256 (FIPS 180-4), for the checksums of an artefact.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_SHA256_H_
#define HETERO_TVM_RUNTIME_C_API_SHA256_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace hetero_tvm::runtime {

/*! \brief The digest of all bytes given to Add(). */
class Sha256 {
 public:
  void Add(const void* data, size_t bytes);

  /*! \brief 64 hexadecimal digits. Call once, last. */
  std::string Finish();

 private:
  void Block(const uint8_t* block);

  std::array<uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                    0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<uint8_t, 64> pending_{};
  uint64_t bytes_ = 0;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_SHA256_H_
