/*!
 * \file c_api/kernel_values.cc
 * \brief Drawing of inputs, and comparison with results.
 */
#include "kernel_values.h"

#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/extra/base64.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../half.h"
#include "../untrusted.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

constexpr size_t kMostParameters = 256;
constexpr size_t kMostRuns = 16;
constexpr size_t kMostPositions = 2048;  // of one result: 11 kB in a manifest
constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;
constexpr size_t kWords = size_t{1} << 16;
constexpr double kLargestHalf = 65504.0;
// As in schedules/verify.py, for the same reasons.
constexpr double kTolerance = 1e-4;
constexpr double kHalfTolerance = 4e-3;
constexpr double kSmallestScale = 1e-30;
constexpr double kFilling = -3.0e38;
constexpr double kHalfFilling = -6.0e4;

/*! \brief Of SplitMix64 (Steele, Lea, Flood 2014), which counts and mixes. */
uint64_t Mixed(uint64_t state) {
  state = (state ^ (state >> 30U)) * 0xbf58476d1ce4e5b9;
  state = (state ^ (state >> 27U)) * 0x94d049bb133111eb;
  return state ^ (state >> 31U);
}

/*! \brief 64 random bits for each number, the same on every machine. */
class Bits {
 public:
  Bits(uint64_t seed, uint64_t place)
      : key_(Mixed(Mixed(seed + kGolden) + (place + 1) * kGolden)) {}
  uint64_t operator[](uint64_t number) const { return Mixed(key_ + (number + 1) * kGolden); }

 private:
  uint64_t key_;
};

bool IsFloat(DLDataType dtype) { return dtype.code == kDLFloat; }
size_t BytesOf(DLDataType dtype) { return dtype.bits / 8; }

/*! \brief Whether inputs of the type can be drawn. */
bool IsKnown(DLDataType dtype) {
  if (dtype.lanes != 1) return false;
  const bool is_whole = dtype.bits == 16 || dtype.bits == 32 || dtype.bits == 64;
  if (IsFloat(dtype)) return is_whole;
  if (dtype.code == kDLBool) return dtype.bits == 8;
  return (dtype.code == kDLInt || dtype.code == kDLUInt) && (is_whole || dtype.bits == 8);
}

/*! \brief Append `value` in a floating type. */
void AddFloat(std::string* bytes, double value, DLDataType dtype) {
  const auto add = [&](auto number) {
    bytes->append(reinterpret_cast<const char*>(&number), sizeof(number));
  };
  if (dtype.bits == 64) return add(value);
  if (dtype.bits == 32) return add(static_cast<float>(value));
  add(HalfFromFloat(static_cast<float>(value)));
}

void AddInteger(std::string* bytes, int64_t value, DLDataType dtype) {
  bytes->append(reinterpret_cast<const char*>(&value), BytesOf(dtype));  // little-endian
}

/*! \brief What 16 bits stand for: even in [-2, 2], exact in single precision. */
double FloatOf(size_t word, bool edge) {
  const double value = (2.0 * static_cast<double>(word) - 65535.0) / 32768.0;
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

std::string Repeated(const std::string& element, size_t count) {
  std::string bytes;
  bytes.reserve(element.size() * count);
  for (size_t i = 0; i < count; ++i) bytes += element;
  return bytes;
}

/*!
 * \brief Random values: floats in [-2, 2]; integers 0 and 1, indices of anything with two
 * elements; but uint32 is any bits, since kernels take such words apart.
 *
 * At the edge an eighth each of zeros, negative zeros, large and small floats, and a run of ones.
 */
std::string Drawn(uint64_t seed, size_t place, DLDataType dtype, size_t count, bool edge) {
  const Bits random(seed, place);
  const size_t width = BytesOf(dtype);
  std::string bytes;
  bytes.reserve(count * width);
  if (!IsFloat(dtype)) {
    const bool is_words = dtype.code == kDLUInt && dtype.bits == 32;
    for (size_t i = 0; i < count; ++i) {
      AddInteger(&bytes, static_cast<int64_t>(random[i] >> (is_words ? 32U : 63U)), dtype);
    }
    return bytes;
  }
  std::string table;
  for (size_t word = 0; word < kWords; ++word) AddFloat(&table, FloatOf(word, edge), dtype);
  for (size_t i = 0; i < count; ++i) bytes.append(table, (random[i] >> 48U) * width, width);
  if (edge) {
    std::string one;
    AddFloat(&one, 1.0, dtype);
    const size_t start = random[count] % count;
    const size_t length = std::min(count / 16 + 1, count - start);
    bytes.replace(start * width, length * width, Repeated(one, length));
  }
  return bytes;
}

/*! \brief Where a result is compared: one element of each of so many equal parts. */
std::vector<size_t> Positions(uint64_t seed, size_t place, size_t count) {
  const Bits random(seed, place);
  const size_t parts = std::min(count, kMostPositions);
  std::vector<size_t> found;
  for (size_t i = 0; i < parts; ++i) {
    const size_t begin = i * count / parts;
    const size_t end = (i + 1) * count / parts;
    found.push_back(begin + random[i] % (end - begin));
  }
  return found;
}

/*! \brief Bytes of an element of `KernelResult::values`. */
size_t WantedWidth(DLDataType dtype) {
  return IsFloat(dtype) && dtype.bits == 16 ? sizeof(float) : BytesOf(dtype);
}

template <typename T>
T At(const std::string& bytes, size_t index) {
  T value;
  std::memcpy(&value, bytes.data() + index * sizeof(T), sizeof(T));
  return value;
}

/*! \brief The difference, relative to the largest number; infinite where one is out of place. */
double RelativeError(DLDataType dtype, const KernelResult& wanted,
                     const std::vector<size_t>& positions, const std::string& got) {
  const bool is_half = dtype.bits == 16;
  const double largest = dtype.bits == 64 ? std::numeric_limits<double>::max()
                         : is_half        ? kLargestHalf
                                          : std::numeric_limits<float>::max();
  double worst = 0;
  for (size_t i = 0; i < positions.size(); ++i) {
    const size_t at = positions[i];
    const double want =
        dtype.bits == 64 ? At<double>(wanted.values, i) : At<float>(wanted.values, i);
    const double found = dtype.bits == 64 ? At<double>(got, at)
                         : is_half        ? FloatFromHalf(At<uint16_t>(got, at))
                                          : At<float>(got, at);
    // Near the limit of the type either side of it is right.
    if (!std::isfinite(want) || std::abs(want) > 0.5 * largest) {
      const bool is_alike = std::isnan(found) == std::isnan(want) && (found > 0) == (want > 0);
      if (!is_alike) return std::numeric_limits<double>::infinity();
      continue;
    }
    if (!std::isfinite(found)) return std::numeric_limits<double>::infinity();
    worst = std::max(worst, std::abs(found - want));
  }
  return worst / std::max(wanted.scale, kSmallestScale);
}

template <typename T>
T Get(const json::Object& object, const char* key) {
  const auto found = object.find(ffi::String(key));
  std::optional<T> value;
  if (found != object.end()) value = (*found).second.template try_cast<T>();
  HETERO_CHECK(value.has_value(), ValueError) << "no '" << key << "' in a tuned kernel's proof";
  return *std::move(value);
}

KernelParameter ReadParameter(const json::Object& object) {
  KernelParameter parameter;
  const auto name = Get<ffi::String>(object, "dtype");
  parameter.dtype = ffi::StringToDLDataType(name);
  for (const json::Value& extent : Get<json::Array>(object, "shape")) {
    parameter.shape.push_back(extent.cast<int64_t>());
  }
  parameter.bytes = TensorBytes(parameter.shape, parameter.dtype, "a tuned kernel's parameter");
  HETERO_CHECK(IsKnown(parameter.dtype) && parameter.bytes > 0, ValueError)
      << "a tuned kernel's parameter has no element, or is of " << std::string(name);
  parameter.elements = parameter.bytes / BytesOf(parameter.dtype);
  return parameter;
}

std::string Decoded(const ffi::String& text) {
  const std::string letters(text);  // TVM's decoder takes any byte as an index
  const size_t last = letters.find_last_not_of('=');
  const bool is_good =
      letters.size() % 4 == 0 && last != letters.npos && letters.size() - last <= 3 &&
      std::all_of(letters.begin(), letters.begin() + static_cast<std::ptrdiff_t>(last) + 1,
                  [](unsigned char c) { return std::isalnum(c) || c == '+' || c == '/'; });
  HETERO_CHECK(is_good, ValueError) << "a tuned kernel's values are no base64";
  const ffi::Bytes bytes = ffi::Base64Decode(text);
  return {bytes.data(), bytes.size()};
}

size_t ReadPlace(const json::Object& object, const std::vector<KernelParameter>& parameters) {
  const auto place = Get<int64_t>(object, "parameter");
  HETERO_CHECK(place >= 0 && static_cast<uint64_t>(place) < parameters.size(), ValueError)
      << "a tuned kernel has no parameter " << place;
  return static_cast<size_t>(place);
}

KernelRun ReadRun(const json::Object& object, const std::vector<KernelParameter>& parameters) {
  KernelRun run{
      static_cast<uint64_t>(Get<int64_t>(object, "seed")), Get<bool>(object, "edge"), {}, {}};
  for (const json::Value& value : Get<json::Array>(object, "wanted")) {
    const auto result = value.cast<json::Object>();
    const size_t place = ReadPlace(result, parameters);
    const KernelParameter& parameter = parameters[place];
    KernelResult wanted{Get<double>(result, "scale"), Decoded(Get<ffi::String>(result, "values"))};
    const size_t positions = std::min(parameter.elements, kMostPositions);
    HETERO_CHECK(wanted.values.size() == positions * WantedWidth(parameter.dtype), ValueError)
        << "a tuned kernel's result has " << wanted.values.size() << " bytes of values";
    HETERO_CHECK(std::isfinite(wanted.scale) && wanted.scale >= 0, ValueError)
        << "a tuned kernel's scale is " << wanted.scale;
    HETERO_CHECK(run.wanted.emplace(place, std::move(wanted)).second, ValueError)
        << "a tuned kernel's parameter " << place << " has two results";
  }
  HETERO_CHECK(!run.wanted.empty(), ValueError) << "a tuned kernel's run has no result";
  for (const json::Value& value : Get<json::Array>(object, "given")) {
    const auto input = value.cast<json::Object>();
    const size_t place = ReadPlace(input, parameters);
    HETERO_CHECK(!IsFloat(parameters[place].dtype) && run.wanted.count(place) == 0, ValueError)
        << "a tuned kernel's parameter " << place << " cannot be given";
    run.given[place] = Get<int64_t>(input, "value");
  }
  return run;
}

}  // namespace

KernelProof KernelProof::Read(const json::Object& object) {
  KernelProof proof;
  const auto parameters = Get<json::Array>(object, "parameters");
  const auto runs = Get<json::Array>(object, "runs");
  HETERO_CHECK(parameters.size() <= kMostParameters && runs.size() <= kMostRuns, ValueError)
      << "a tuned kernel of " << parameters.size() << " parameters with " << runs.size() << " runs";
  for (const json::Value& value : parameters) {
    proof.parameters.push_back(ReadParameter(value.cast<json::Object>()));
  }
  for (const json::Value& value : runs) {
    proof.runs.push_back(ReadRun(value.cast<json::Object>(), proof.parameters));
  }
  return proof;
}

std::string KernelMemory(const KernelProof& proof, const KernelRun& run, size_t place) {
  const KernelParameter& parameter = proof.parameters[place];
  std::string element;
  if (run.wanted.count(place) == 0) {
    const auto given = run.given.find(place);
    if (given == run.given.end()) {
      return Drawn(run.seed, place, parameter.dtype, parameter.elements, run.edge);
    }
    AddInteger(&element, given->second, parameter.dtype);
  } else if (IsFloat(parameter.dtype)) {
    AddFloat(&element, parameter.dtype.bits == 16 ? kHalfFilling : kFilling, parameter.dtype);
  } else {
    AddInteger(&element, 0, parameter.dtype);
  }
  return Repeated(element, parameter.elements);
}

std::string KernelError(const KernelProof& proof, const KernelRun& run, size_t place,
                        const std::string& got) {
  const DLDataType dtype = proof.parameters[place].dtype;
  const KernelResult& wanted = run.wanted.at(place);
  const std::vector<size_t> positions =
      Positions(run.seed, place, proof.parameters[place].elements);
  double error = 0;
  double tolerance = 0;
  if (IsFloat(dtype)) {
    tolerance = dtype.bits == 16 ? kHalfTolerance : kTolerance;
    error = RelativeError(dtype, wanted, positions, got);
  } else {
    const size_t width = BytesOf(dtype);
    for (size_t i = 0; i < positions.size(); ++i) {
      if (got.compare(positions[i] * width, width, wanted.values, i * width, width) != 0) error = 1;
    }
  }
  if (error <= tolerance) return "";
  std::array<char, 32> figure{};
  std::snprintf(figure.data(), figure.size(), "%.1e", error);
  return std::string("wrong on ") + (run.edge ? "edge" : "random") + " values: relative error " +
         figure.data();
}

// For hetero_tvm/kernel_values.py, which computes the results where there is a compiler.
TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames()
      .Typed("hetero_tvm.kernel_drawn",
             [](int64_t seed, int64_t place, DLDataType dtype, int64_t count, bool edge) {
               HETERO_CHECK(IsKnown(dtype) && count > 0, ValueError)
                   << count << " values of a type that cannot be drawn";
               return ffi::Bytes(Drawn(static_cast<uint64_t>(seed), static_cast<size_t>(place),
                                       dtype, static_cast<size_t>(count), edge));
             })
      .Typed("hetero_tvm.kernel_positions", [](int64_t seed, int64_t place, int64_t count) {
        HETERO_CHECK(count > 0, ValueError) << "a result of " << count << " elements";
        const auto found = Positions(static_cast<uint64_t>(seed), static_cast<size_t>(place),
                                     static_cast<size_t>(count));
        return ffi::Shape(found.begin(), found.end());
      });
}

}  // namespace hetero_tvm::runtime
