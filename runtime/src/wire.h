/*!
 * \file wire.h
 * \brief Reading and writing of serialised modules: little endian, every length checked.
 *
 * Strings, arrays and maps are a uint64 count followed by their items, as in TVM's own modules.
 */
#ifndef HETERO_TVM_RUNTIME_WIRE_H_
#define HETERO_TVM_RUNTIME_WIRE_H_

#include <tvm/ffi/error.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>

namespace hetero_tvm::runtime {

/*! \brief Takes a byte string apart; throws ValueError instead of reading past its end. */
class WireReader {
 public:
  /*! \param bytes What to read; must outlive the reader.  \param what Named in errors. */
  WireReader(std::string_view bytes, const char* what) : left_(bytes), what_(what) {}

  template <typename T>
  T Number() {
    static_assert(std::is_arithmetic_v<T>);
    const std::string_view bytes = Take(sizeof(T));
    T value;
    std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }

  /*! \brief A count of items that take at least `item_bytes` each, so it cannot exceed what is
   * left. */
  uint64_t Count(size_t item_bytes) {
    const auto count = Number<uint64_t>();
    if (count > left_.size() / item_bytes) Damaged();
    return count;
  }

  /*! \brief A length-prefixed string, still lying in the bytes being read. */
  std::string_view Text() { return Take(Count(1)); }

  /*! \brief Ensures: nothing is left. */
  void ExpectEnd() const {
    if (!left_.empty()) Damaged();
  }

 private:
  std::string_view Take(size_t size) {
    if (size > left_.size()) Damaged();
    const std::string_view taken = left_.substr(0, size);
    left_.remove_prefix(size);
    return taken;
  }

  [[noreturn]] void Damaged() const {
    TVM_FFI_THROW(ValueError) << what_ << " is truncated or damaged; build the model again";
    TVM_FFI_UNREACHABLE();
  }

  std::string_view left_;
  const char* what_;
};

/*! \brief The other direction. */
class WireWriter {
 public:
  template <typename T>
  void Number(T value) {
    static_assert(std::is_arithmetic_v<T>);
    bytes_.append(reinterpret_cast<const char*>(&value), sizeof(T));
  }
  void Text(std::string_view text) {
    Number<uint64_t>(text.size());
    bytes_.append(text);
  }
  std::string Finish() { return std::move(bytes_); }

 private:
  std::string bytes_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_WIRE_H_
