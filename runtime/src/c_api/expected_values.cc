/*!
 * \file c_api/expected_values.cc
 * \brief Drawing inputs and comparing results, as hetero_tvm/expected_values.py and
 * schedules/verify.py do.
 */
#include "expected_values.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../half.h"
#include "../imported.h"
#include "../untrusted.h"
#include "machine.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

constexpr uint64_t kMostPositions = 1024;
constexpr uint64_t kLast = 32;  // of these, at the end
constexpr size_t kMostParameters = 256;
constexpr size_t kMostRuns = 16;
constexpr DLDevice kGpu{kDLOpenCL, 0};
// What memory holds before a kernel has written it: no kernel gives it.
constexpr float kFilling = -3.0e38F;
constexpr float kHalfFilling = -6.0e4F;

uint64_t Mixed(uint64_t z) {
  z = (z ^ (z >> 30U)) * 0xBF58476D1CE4E5B9U;
  z = (z ^ (z >> 27U)) * 0x94D049BB133111EBU;
  return z ^ (z >> 31U);
}

uint64_t Bits(uint32_t seed, size_t place, uint64_t element) {
  const uint64_t key = Mixed(static_cast<uint64_t>(seed) << 32U | place);
  return Mixed(element + key);
}

bool IsFloat(DLDataType dtype) { return dtype.code == kDLFloat; }

double FloatOf(uint64_t bits, bool edge) {
  const uint64_t word = bits >> 48U;
  const double value = (2.0 * static_cast<double>(word) - 65535) / 32768;
  if (!edge) return value;
  switch (word % 8) {
    case 0:
      return 0.0;
    case 1:
      return -0.0;
    case 2:
      return 100 * value;
    case 3:
      return value / 1024;
    default:
      return value;
  }
}

/*! \brief Write one element; an integer by its lowest bytes. */
void Put(uint8_t* to, DLDataType dtype, double real, uint64_t whole) {
  const size_t bytes = dtype.bits / 8;
  if (!IsFloat(dtype)) {
    std::memcpy(to, &whole, bytes);  // the machines that we know are little-endian
    return;
  }
  const auto single = static_cast<float>(real);
  if (bytes == sizeof(uint16_t)) {
    const uint16_t half = HalfFromFloat(single);
    std::memcpy(to, &half, bytes);
  } else if (bytes == sizeof(float)) {
    std::memcpy(to, &single, bytes);
  } else {
    const double wide = single;
    std::memcpy(to, &wide, bytes);
  }
}

double Taken(const uint8_t* from, DLDataType dtype) {
  const size_t bytes = dtype.bits / 8;
  if (!IsFloat(dtype)) {
    uint64_t whole = 0;
    std::memcpy(&whole, from, bytes);
    if (dtype.code == kDLInt) {
      const unsigned unused = 64U - 8U * static_cast<unsigned>(bytes);
      return static_cast<double>(static_cast<int64_t>(whole << unused) >> unused);
    }
    return static_cast<double>(whole);
  }
  if (bytes == sizeof(uint16_t)) {
    uint16_t half = 0;
    std::memcpy(&half, from, bytes);
    return FloatFromHalf(half);
  }
  if (bytes == sizeof(float)) {
    float single = 0;
    std::memcpy(&single, from, bytes);
    return single;
  }
  double wide = 0;
  std::memcpy(&wide, from, bytes);
  return wide;
}

std::vector<uint64_t> Positions(uint32_t seed, size_t place, uint64_t count) {
  std::vector<uint64_t> found;
  if (count <= kMostPositions) {
    for (uint64_t i = 0; i < count; ++i) found.push_back(i);
    return found;
  }
  for (uint64_t i = 0; i < kMostPositions - kLast; ++i) {
    found.push_back(Bits(seed, place, i) % count);
  }
  for (uint64_t i = count - kLast; i < count; ++i) found.push_back(i);
  return found;
}

uint64_t Elements(const KernelParameter& tensor) {
  return tensor.bytes / (static_cast<size_t>(tensor.dtype.bits) / 8);
}

double Limit(DLDataType dtype) {
  if (dtype.bits == 16) return 65504.0;
  return dtype.bits == 32 ? std::numeric_limits<float>::max() : std::numeric_limits<double>::max();
}

/*! \brief How far `got` is off, over `largest`; infinite where it is another kind of number. */
double ErrorOf(double got, double want, double largest, DLDataType dtype) {
  if (!IsFloat(dtype)) return got == want ? 0.0 : 1.0;
  constexpr double kWrong = std::numeric_limits<double>::infinity();
  if (!std::isfinite(want) || std::abs(want) > 0.5 * Limit(dtype)) {
    const bool alike = std::isnan(got) == std::isnan(want) && (got > 0) == (want > 0);
    return alike ? 0.0 : kWrong;
  }
  return std::isfinite(got) ? std::abs(got - want) / std::max(largest, 1e-30) : kWrong;
}

std::vector<double> FromBase64(const std::string& text) {
  std::vector<uint8_t> bytes;
  uint32_t held = 0;
  unsigned bits = 0;
  for (const char letter : text) {
    static constexpr char kLetters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    if (letter == '=') break;
    const char* found = std::strchr(kLetters, letter);
    HETERO_CHECK(letter != '\0' && found != nullptr, ValueError) << "values that are no base64";
    held = (held << 6U | static_cast<uint32_t>(found - kLetters)) & 0xFFFFFFU;
    bits += 6;
    if (bits >= 8) {
      bits -= 8;
      bytes.push_back(static_cast<uint8_t>(held >> bits));
    }
  }
  HETERO_CHECK(bytes.size() % sizeof(double) == 0, ValueError) << "values that are cut short";
  std::vector<double> values(bytes.size() / sizeof(double));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

json::Value Field(const json::Object& object, const char* key) {
  const auto found = object.find(ffi::String(key));
  HETERO_CHECK(found != object.end(), ValueError) << "no '" << key << "' in a kernel's check";
  return (*found).second;
}

double Number(const json::Object& object, const char* key) {
  const json::Value value = Field(object, key);
  const auto real = value.try_cast<double>();
  const double number = real.has_value() ? *real : static_cast<double>(value.cast<int64_t>());
  HETERO_CHECK(std::isfinite(number) && number >= 0, ValueError)
      << "'" << key << "' of a kernel's check is " << number;
  return number;
}

size_t PlaceOf(const json::Object& object, const std::vector<KernelParameter>& parameters) {
  const auto place = Field(object, "place").cast<int64_t>();
  HETERO_CHECK(place >= 0 && static_cast<size_t>(place) < parameters.size(), ValueError)
      << "a kernel's check names parameter " << place << " of " << parameters.size();
  return static_cast<size_t>(place);
}

KernelParameter Parameter(const json::Object& object) {
  KernelParameter tensor;
  const auto name = Field(object, "dtype").cast<ffi::String>();
  tensor.dtype = ffi::StringToDLDataType(name);
  for (const json::Value& dim : Field(object, "shape").cast<json::Array>()) {
    tensor.shape.push_back(dim.cast<int64_t>());
  }
  tensor.bytes = TensorBytes(tensor.shape, tensor.dtype, "a kernel's parameter");
  const DLDataType dtype = tensor.dtype;
  const bool is_whole = dtype.code == kDLInt || dtype.code == kDLUInt || dtype.code == kDLBool;
  const bool is_known =
      IsFloat(dtype) ? dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64
                     : is_whole && dtype.bits >= 8 && dtype.bits <= 64 && dtype.bits % 8 == 0;
  HETERO_CHECK(is_known, ValueError) << "a kernel's parameter of " << std::string(name);
  return tensor;
}

ExpectedRun Run(const json::Object& object, const std::vector<KernelParameter>& parameters) {
  ExpectedRun run;
  const auto seed = Field(object, "seed").cast<int64_t>();
  HETERO_CHECK(seed >= 0 && seed <= std::numeric_limits<uint32_t>::max(), ValueError)
      << "a kernel's check of the seed " << seed;
  run.seed = static_cast<uint32_t>(seed);
  run.edge = Field(object, "edge").cast<bool>();
  for (const json::Value& value : Field(object, "fixed").cast<json::Array>()) {
    const auto fixed = value.cast<json::Object>();
    run.fixed.push_back({PlaceOf(fixed, parameters), Field(fixed, "value").cast<int64_t>()});
  }
  for (const json::Value& value : Field(object, "expected").cast<json::Array>()) {
    const auto result = value.cast<json::Object>();
    const size_t place = PlaceOf(result, parameters);
    std::vector<double> values =
        FromBase64(std::string(Field(result, "values").cast<ffi::String>()));
    const uint64_t wanted = std::min(Elements(parameters[place]), kMostPositions);
    HETERO_CHECK(values.size() == wanted, ValueError)
        << "a kernel's check has " << values.size() << " values of " << wanted;
    run.results.push_back(
        {place, Number(result, "tolerance"), Number(result, "largest"), std::move(values)});
  }
  HETERO_CHECK(!run.results.empty(), ValueError) << "a kernel's check without a result";
  return run;
}

}  // namespace

std::vector<uint8_t> DrawnBytes(uint32_t seed, size_t place, uint64_t count, DLDataType dtype,
                                bool edge) {
  const size_t bytes = dtype.bits / 8;
  const bool is_bits = dtype.code == kDLUInt && dtype.bits == 32;
  std::vector<uint8_t> content(count * bytes);
  for (uint64_t i = 0; i < count; ++i) {
    const uint64_t bits = Bits(seed, place, i);
    Put(content.data() + i * bytes, dtype, FloatOf(bits, edge), is_bits ? bits : bits >> 48U & 1U);
  }
  return content;
}

ExpectedValues ExpectedValues::Read(const json::Object& object) {
  ExpectedValues values;
  const auto parameters = Field(object, "parameters").cast<json::Array>();
  const auto runs = Field(object, "runs").cast<json::Array>();
  HETERO_CHECK(parameters.size() <= kMostParameters && runs.size() <= kMostRuns && !runs.empty(),
               ValueError)
      << "a kernel's check of " << parameters.size() << " parameters in " << runs.size() << " runs";
  for (const json::Value& value : parameters) {
    values.parameters.push_back(Parameter(value.cast<json::Object>()));
  }
  for (const json::Value& value : runs) {
    values.runs.push_back(Run(value.cast<json::Object>(), values.parameters));
  }
  return values;
}

std::string ExpectedValues::Check(const ffi::Module& code, const std::string& name) const {
  const ffi::Function kernel = FunctionOf(code, name);
  const ffi::Function sync = Imported("hetero_tvm.sync");
  const ffi::Function copy = Imported("runtime.TVMTensorCopyToBytes");
  for (const ExpectedRun& run : runs) {
    // 1. Inputs are drawn, memory that the kernel has to write is filled.
    std::vector<ffi::Tensor> tensors;
    for (size_t place = 0; place < parameters.size(); ++place) {
      const KernelParameter& parameter = parameters[place];
      const uint64_t count = Elements(parameter);
      std::vector<uint8_t> content;
      const auto is_here = [place](const auto& one) { return one.place == place; };
      const auto fixed = std::find_if(run.fixed.begin(), run.fixed.end(), is_here);
      const bool is_result = std::any_of(run.results.begin(), run.results.end(), is_here);
      if (is_result || fixed != run.fixed.end()) {
        const size_t bytes = parameter.dtype.bits / 8;
        const double real = bytes == sizeof(uint16_t) ? kHalfFilling : kFilling;
        const int64_t whole = is_result ? 0 : fixed->value;
        content.resize(count * bytes);
        for (uint64_t i = 0; i < count; ++i) {
          Put(content.data() + i * bytes, parameter.dtype,
              is_result ? real : static_cast<double>(whole), static_cast<uint64_t>(whole));
        }
      } else {
        content = DrawnBytes(run.seed, place, count, parameter.dtype, run.edge);
      }
      tensors.push_back(NewTensor({"", "", parameter.dtype, parameter.shape, {}, 0}, kGpu));
      SetBytes(tensors.back(), content.data(), content.size());
    }
    // 2. The kernel runs.
    std::vector<ffi::AnyView> arguments(tensors.begin(), tensors.end());
    ffi::Any nothing;
    kernel.CallPacked(arguments.data(), static_cast<int32_t>(arguments.size()), &nothing);
    sync();
    // 3. Its results are compared.
    for (const ExpectedResult& result : run.results) {
      const KernelParameter& parameter = parameters[result.place];
      std::vector<uint8_t> content(parameter.bytes);
      copy(tensors[result.place], static_cast<void*>(content.data()),
           static_cast<int64_t>(content.size()));
      const std::vector<uint64_t> places = Positions(run.seed, result.place, Elements(parameter));
      double worst = 0;
      for (size_t i = 0; i < places.size(); ++i) {
        const double got =
            Taken(content.data() + places[i] * (parameter.dtype.bits / 8), parameter.dtype);
        worst = std::max(worst, ErrorOf(got, result.values[i], result.largest, parameter.dtype));
      }
      if (!(worst <= result.tolerance)) {
        char text[96];
        std::snprintf(text, sizeof(text), "wrong on %s values: relative error %.1e",
                      run.edge ? "edge" : "random", worst);
        return text;
      }
    }
  }
  return "";
}

// For tests: what is drawn here is what Python draws.
TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames().Typed("hetero_tvm.drawn_bytes", [](int64_t seed, int64_t place, int64_t count,
                                                   const ffi::String& dtype, bool edge) {
    const std::vector<uint8_t> content =
        DrawnBytes(static_cast<uint32_t>(seed), static_cast<size_t>(place),
                   static_cast<uint64_t>(count), ffi::StringToDLDataType(dtype), edge);
    return ffi::Bytes(reinterpret_cast<const char*>(content.data()), content.size());
  });
}

}  // namespace hetero_tvm::runtime
