/*!
 * \file fuzz.h
 * \brief What a parser may do with bytes that nobody vouches for: understand them, or throw.
 */
#ifndef HETERO_TVM_TESTS_FUZZ_H_
#define HETERO_TVM_TESTS_FUZZ_H_

#include <tvm/ffi/error.h>

#include <cstdint>
#include <cstdlib>
#include <string>

namespace hetero_tvm::fuzz {

/*! \brief Ends the process where a parser let something through. */
inline void Require(bool holds) {
  if (!holds) std::abort();
}

/*! \brief Call `parse`; anything but an error about the input ends the process. */
template <typename Parse>
int Allowed(const Parse& parse) {
  try {
    parse();
  } catch (const tvm::ffi::Error& error) {
    const std::string kind = error.kind();
    Require(kind == "ValueError" || kind == "TypeError");
  }
  return 0;
}

}  // namespace hetero_tvm::fuzz

#endif  // HETERO_TVM_TESTS_FUZZ_H_
