/*!
 * \file untrusted.cc
 * \brief The limits, checked without overflow and without recursion.
 */
#include "untrusted.h"

#include <tvm/ffi/container/tensor.h>

#include <algorithm>
#include <optional>

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

/*! \brief How deep arrays and objects of `text` nest at most, by its brackets outside of strings.
 */
size_t Depth(const ffi::String& text) {
  size_t depth = 0;
  size_t deepest = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text.data()[i];
    if (in_string && c == '\\') {
      ++i;  // whatever is escaped does not end the string
    } else if (c == '"') {
      in_string = !in_string;
    } else if (!in_string && (c == '[' || c == '{')) {
      deepest = std::max(deepest, ++depth);
    } else if (!in_string && (c == ']' || c == '}') && depth > 0) {
      --depth;
    }
  }
  return deepest;
}

}  // namespace

json::Object ParseDescription(const ffi::String& text, const std::string& where) {
  const size_t depth = Depth(text);
  HETERO_CHECK(depth <= kMaxJsonDepth, ValueError)
      << where << " nests " << depth << " deep, at most " << kMaxJsonDepth;
  ffi::String why;
  const json::Value parsed = json::Parse(text, &why);
  auto object = why.empty() ? parsed.try_cast<json::Object>() : std::nullopt;
  HETERO_CHECK(object.has_value(), ValueError) << where << " is no JSON object";
  return *std::move(object);
}

size_t TensorBytes(const std::vector<int64_t>& shape, DLDataType dtype, const std::string& where) {
  HETERO_CHECK(shape.size() <= kMaxRank, ValueError)
      << where << ": a shape of " << shape.size() << " dimensions, at most " << kMaxRank;
  HETERO_CHECK(dtype.lanes == 1 && dtype.bits > 0, ValueError)
      << where << ": a type that no tensor has";
  // An element has at most 256 bits, so 2^40 of them cannot overflow.
  constexpr uint64_t kMaxElements = kMaxTensorBytes;
  uint64_t elements = 1;
  bool is_empty = false;
  for (const int64_t size : shape) {
    HETERO_CHECK(size >= 0, ValueError) << where << ": a negative dimension";
    is_empty = is_empty || size == 0;
    // Without the zeros, since strides are products of some of the dimensions.
    const auto count = static_cast<uint64_t>(std::max<int64_t>(size, 1));
    HETERO_CHECK(elements <= kMaxElements / count, ValueError)
        << where << ": the shape is too large";
    elements *= count;
  }
  const size_t bytes = ffi::GetDataSize(elements, dtype);
  HETERO_CHECK(bytes <= kMaxTensorBytes, ValueError) << where << ": the shape is too large";
  return is_empty ? 0 : bytes;
}

}  // namespace hetero_tvm::runtime
