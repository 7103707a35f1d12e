/*!
 * \file npu/region.cc
 * \brief Reading of the JSON header that describes NPU regions.
 */
#include "region.h"

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>

#include <utility>

#include "../untrusted.h"

namespace hetero_tvm::runtime::npu {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

[[noreturn]] void Refuse(const std::string& where, const std::string& what) {
  TVM_FFI_THROW(ValueError) << "NPU module: " << where << ": " << what;
  TVM_FFI_UNREACHABLE();
}

/*! \brief Member `key` of `object` as a T, or ValueError naming both. */
template <typename T>
T Member(const json::Object& object, const char* key, const std::string& where) {
  const auto found = object.find(ffi::String(key));
  if (found == object.end()) Refuse(where, std::string("no '") + key + "'");
  std::optional<T> value = (*found).second.template try_cast<T>();
  if (!value.has_value()) Refuse(where, std::string("'") + key + "' has the wrong type");
  return *std::move(value);
}

std::string Text(const json::Object& object, const char* key, const std::string& where) {
  return std::string(Member<ffi::String>(object, key, where));
}

TensorSpec ParseTensor(const json::Value& value, const std::string& where) {
  const auto object = value.try_cast<json::Object>();
  if (!object.has_value()) Refuse(where, "a tensor is not an object");
  TensorSpec spec;
  spec.name = Text(*object, "name", where);
  const std::string here = where + ", tensor '" + spec.name + "'";
  spec.dtype_name = Text(*object, "dtype", here);
  spec.dtype = ffi::StringToDLDataType(spec.dtype_name);
  for (const json::Value& extent : Member<json::Array>(*object, "shape", here)) {
    const auto size = extent.try_cast<int64_t>();
    if (!size.has_value()) Refuse(here, "a dimension is not a number");
    spec.shape.push_back(*size);
  }
  spec.bytes = TensorBytes(spec.shape, spec.dtype, "NPU module: " + here);
  return spec;
}

Region ParseRegion(const json::Value& value, size_t index) {
  std::string where = "region " + std::to_string(index);
  const auto object = value.try_cast<json::Object>();
  if (!object.has_value()) Refuse(where, "not an object");
  Region region;
  region.symbol = Text(*object, "symbol", where);
  where = "region " + region.symbol;
  region.provider = Text(*object, "provider", where);
  for (const auto& [key, option] : Member<json::Object>(*object, "options", where)) {
    const auto name = key.try_cast<ffi::String>();
    const auto text = option.try_cast<ffi::String>();
    if (!name.has_value() || !text.has_value()) Refuse(where, "an option is not a string");
    region.options[std::string(*name)] = std::string(*text);
  }
  if (object->find(ffi::String("substitute")) != object->end()) {
    region.has_substitute = Member<bool>(*object, "substitute", where);
  }
  if (object->find(ffi::String("standby")) != object->end()) {
    region.is_standby = Member<bool>(*object, "standby", where);
  }
  if (object->find(ffi::String("binaries")) != object->end()) {
    for (const json::Value& binary : Member<json::Array>(*object, "binaries", where)) {
      const auto pieces = binary.try_cast<json::Array>();
      if (!pieces.has_value()) Refuse(where, "a binary is not a list of pieces");
      std::vector<int64_t>& numbers = region.binaries.emplace_back();
      for (const json::Value& piece : *pieces) {
        const auto number = piece.try_cast<int64_t>();
        if (!number.has_value()) Refuse(where, "a piece is not a number");
        numbers.push_back(*number);
      }
    }
  }
  for (const json::Value& input : Member<json::Array>(*object, "inputs", where)) {
    region.inputs.push_back(ParseTensor(input, where));
  }
  if (object->find(ffi::String("weights")) != object->end()) {
    for (const json::Value& weight : Member<json::Array>(*object, "weights", where)) {
      TensorSpec spec = ParseTensor(weight, where);
      const auto offset = Member<int64_t>(weight.cast<json::Object>(), "offset", where);
      if (offset < 0) Refuse(where, "weight '" + spec.name + "' at a negative offset");
      region.outside.push_back({std::move(spec), static_cast<uint64_t>(offset)});
    }
  }
  for (const json::Value& output : Member<json::Array>(*object, "outputs", where)) {
    region.outputs.push_back(ParseTensor(output, where));
  }
  return region;
}

}  // namespace

std::vector<Region> ParseRegions(const ffi::String& text) {
  const json::Object header = ParseDescription(text, "NPU module: header");
  std::vector<Region> regions;
  for (const json::Value& region : Member<json::Array>(header, "regions", "header")) {
    regions.push_back(ParseRegion(region, regions.size()));
  }
  return regions;
}

std::vector<std::string> ParseNames(const ffi::String& text, const char* list) {
  const json::Object header = ParseDescription(text, "NPU module: header");
  std::vector<std::string> names;
  if (header.find(ffi::String(list)) == header.end()) return names;
  for (const json::Value& file : Member<json::Array>(header, list, "header")) {
    const auto name = file.try_cast<ffi::String>();
    if (!name.has_value()) Refuse("header", "the name of a file is not a string");
    names.emplace_back(*name);
  }
  return names;
}

}  // namespace hetero_tvm::runtime::npu
