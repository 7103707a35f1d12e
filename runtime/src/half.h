/*!
 * \file half.h
 * \brief IEEE half precision for compilers without a half type.
 */
#ifndef HETERO_TVM_RUNTIME_HALF_H_
#define HETERO_TVM_RUNTIME_HALF_H_

#include <cstdint>
#include <cstring>

namespace hetero_tvm::runtime {

/*! \brief The bits of `value` in half precision, rounded to nearest even. */
inline uint16_t HalfFromFloat(float value) {
  uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof(bits));
  const auto sign = static_cast<uint16_t>((bits >> 16U) & 0x8000U);
  const uint32_t magnitude = bits & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return sign | 0x7E00U;   // not a number
  if (magnitude >= 0x477FF000U) return sign | 0x7C00U;  // rounds to infinity, or is
  if (magnitude < 0x38800000U) {
    // Subnormal: adding 0.5 shifts the bits that remain to the low end, and rounds them.
    float shifted = 0;
    std::memcpy(&shifted, &magnitude, sizeof(shifted));
    shifted += 0.5F;
    std::memcpy(&bits, &shifted, sizeof(bits));
    return static_cast<uint16_t>(sign | (bits - 0x3F000000U));
  }
  const uint32_t odd = (magnitude >> 13U) & 1U;
  const uint32_t rounded = magnitude - 0x38000000U + 0xFFFU + odd;  // exponent bias 127 to 15
  return static_cast<uint16_t>(sign | (rounded >> 13U));
}

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_HALF_H_
