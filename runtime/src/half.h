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

/*! \brief The value of `bits` in half precision; single precision has them all. */
inline float FloatFromHalf(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16U;
  const uint32_t magnitude = bits & 0x7FFFU;
  uint32_t wide = 0;
  if (magnitude < 0x0400U) {  // zero or subnormal: so many times 2^-24
    const float value = static_cast<float>(magnitude) * 5.9604644775390625e-8F;
    std::memcpy(&wide, &value, sizeof(wide));
  } else {  // exponent bias 15 to 127; infinities and what is no number keep theirs
    wide = (magnitude << 13U) + (magnitude < 0x7C00U ? 0x38000000U : 0x70000000U);
  }
  wide |= sign;
  float value = 0;
  std::memcpy(&value, &wide, sizeof(value));
  return value;
}

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_HALF_H_
