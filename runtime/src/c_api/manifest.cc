/*!
 * \file c_api/manifest.cc
 * \brief Reading and checking of an artefact's description.
 */
#include "manifest.h"

#include <sys/utsname.h>
#include <tvm/ffi/extra/json.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <istream>
#include <limits>
#include <utility>

#include "../check.h"
#include "../imported.h"
#include "../untrusted.h"
#include "sha256.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

constexpr int64_t kFormatVersion = 6;
constexpr std::string_view kMagic = "HETROTVM";
constexpr std::string_view kSignatureMagic = "HETROSIG";
constexpr uint64_t kSignatureBlockBytes = 64 + 32 + 8;  // signature, public key, magic
constexpr uint64_t kDigestBytes = 32;
constexpr uint64_t kFooterBytes = kDigestBytes + 8 + 8;  // digest, length, magic
constexpr uint64_t kMaxManifestBytes = uint64_t{64} << 20;
constexpr int64_t kViewBytes = 128;  // each weight begins at a multiple, from the first
constexpr int64_t kMostTokens = std::numeric_limits<int32_t>::max();  // steps count in an int32
#ifdef __ANDROID__
constexpr const char* kSystem = "android";
#else
constexpr const char* kSystem = "linux";
#endif

/*! \brief Reads members of one object; throws ValueError naming the missing one. */
class Reader {
 public:
  explicit Reader(json::Object object) : object_(std::move(object)) {}

  template <typename T>
  T Get(const char* key) const {
    const auto found = object_.find(ffi::String(key));
    std::optional<T> value;
    if (found != object_.end()) value = (*found).second.template try_cast<T>();
    HETERO_CHECK(value.has_value(), ValueError) << "no '" << key << "' in its description";
    return *std::move(value);
  }
  std::string Text(const char* key) const { return std::string(Get<ffi::String>(key)); }

 private:
  json::Object object_;
};

std::vector<int64_t> Numbers(const json::Array& array) {
  std::vector<int64_t> numbers;
  for (const json::Value& value : array) numbers.push_back(value.cast<int64_t>());
  return numbers;
}

BorderTensor ReadTensor(const json::Value& value) {
  const Reader reader(value.cast<json::Object>());
  BorderTensor tensor;
  tensor.name = reader.Text("name");
  tensor.dtype_name = reader.Text("dtype");
  tensor.dtype = ffi::StringToDLDataType(tensor.dtype_name);
  tensor.shape = Numbers(reader.Get<json::Array>("shape"));
  tensor.bytes = TensorBytes(tensor.shape, tensor.dtype, "tensor '" + tensor.name + "'");
  return tensor;
}

/*! \brief An order of `rank` axes: each of them once. */
std::vector<int64_t> Permutation(const json::Array& array, size_t rank) {
  std::vector<int64_t> axes = Numbers(array);
  std::vector<int64_t> sorted = axes;
  std::sort(sorted.begin(), sorted.end());
  bool is_order = sorted.size() == rank;
  for (size_t i = 0; is_order && i < rank; ++i) is_order = sorted[i] == static_cast<int64_t>(i);
  HETERO_CHECK(is_order, ValueError) << "an output's axes are no order of its " << rank;
  return axes;
}

Program ReadProgram(const json::Object& object, int64_t length, std::string function) {
  const Reader reader(object);
  HETERO_CHECK(length >= 0 && length <= kMostTokens, ValueError)
      << function << " is for a length of " << length;
  Program program{length, std::move(function), {}, {}, {}};
  for (const json::Value& input : reader.Get<json::Array>("inputs")) {
    program.inputs.push_back(ReadTensor(input));
  }
  const auto axes = reader.Get<json::Array>("output_axes");
  const auto outputs = reader.Get<json::Array>("outputs");
  HETERO_CHECK(axes.size() == outputs.size(), ValueError)
      << axes.size() << " orders of axes for " << outputs.size() << " outputs";
  for (size_t i = 0; i < outputs.size(); ++i) {
    BorderTensor output = ReadTensor(outputs[static_cast<int64_t>(i)]);
    const json::Value order = axes[static_cast<int64_t>(i)];
    if (order != nullptr) {
      output.axes = Permutation(order.cast<json::Array>(), output.shape.size());
    }
    program.outputs.push_back(std::move(output));
  }
  return program;
}

/*! \brief The signature at the end of a file of `size` bytes; empty where there is none. */
std::string SignatureAt(std::istream& file, uint64_t size) {
  if (size < kSignatureBlockBytes) return "";
  std::string block(kSignatureBlockBytes, '\0');
  file.seekg(static_cast<std::streamoff>(size - kSignatureBlockBytes));
  file.read(block.data(), static_cast<std::streamsize>(block.size()));
  return block.compare(block.size() - kSignatureMagic.size(), block.npos, kSignatureMagic) == 0
             ? block
             : "";
}

/*! \brief A description, and what a signature is of. */
struct Checked {
  json::Object description;
  std::string footer;
  std::string signature;  // empty: none
};

/*! \brief The SHA-256 of a part of the file. */
std::string DigestOf(std::istream& file, uint64_t offset, uint64_t bytes) {
  Sha256 digest;
  std::vector<char> chunk(size_t{1} << 20);
  file.seekg(static_cast<std::streamoff>(offset));
  for (uint64_t left = bytes; left > 0;) {
    const auto wanted = static_cast<std::streamsize>(std::min<uint64_t>(left, chunk.size()));
    file.read(chunk.data(), wanted);
    HETERO_CHECK(file.gcount() == wanted, ValueError) << "cannot be read to its end";
    digest.Add(chunk.data(), static_cast<size_t>(wanted));
    left -= static_cast<uint64_t>(wanted);
  }
  return digest.Finish();
}

/*! \brief The object that is `key` of `object`; none where it is absent or null. */
std::optional<json::Object> Part(const json::Object& object, const char* key) {
  const auto held = object.find(ffi::String(key));
  if (held == object.end() || (*held).second == nullptr) return std::nullopt;
  auto part = (*held).second.template try_cast<json::Object>();
  HETERO_CHECK(part.has_value(), ValueError) << "'" << key << "' is no object in its description";
  return part;
}

std::vector<StoredWeight> ReadWeights(const json::Object& object) {
  const Reader reader(object);
  const auto bytes = static_cast<uint64_t>(reader.Get<int64_t>("nbytes"));
  const std::vector<int64_t> places = Numbers(reader.Get<json::Array>("places"));
  std::vector<StoredWeight> weights;
  for (const json::Value& value : reader.Get<json::Array>("tensors")) {
    HETERO_CHECK(weights.size() < places.size(), ValueError)
        << places.size() << " places for more weights";
    const int64_t place = places[weights.size()];
    StoredWeight weight{ReadTensor(value), static_cast<uint64_t>(place)};
    HETERO_CHECK(place >= 0 && place % kViewBytes == 0 && weight.place <= bytes &&
                     weight.tensor.bytes <= bytes - weight.place,
                 ValueError)
        << weight.tensor.name << " reaches out of the weights";
    weights.push_back(std::move(weight));
  }
  return weights;
}

/*! \brief Numbers of the weights that `function` takes, each below `count`. */
std::vector<size_t> WeightsOf(const json::Object& weights, const std::string& function,
                              size_t count) {
  const Reader of_function(Reader(weights).Get<json::Object>("of_function"));
  std::vector<size_t> found;
  for (const int64_t index : Numbers(of_function.Get<json::Array>(function.c_str()))) {
    HETERO_CHECK(index >= 0 && static_cast<size_t>(index) < count, ValueError)
        << function << " takes weight " << index << " of " << count;
    found.push_back(static_cast<size_t>(index));
  }
  return found;
}

LlmDescription ReadLlm(const json::Object& object) {
  const Reader reader(object);
  LlmDescription llm{{},
                     reader.Get<int64_t>("capacity"),
                     reader.Get<int64_t>("vocabulary"),
                     Numbers(reader.Get<json::Array>("stop_tokens"))};
  for (const json::Value& cache : reader.Get<json::Array>("caches")) {
    llm.caches.push_back(ReadTensor(cache));
  }
  HETERO_CHECK(llm.capacity > 0 && llm.vocabulary > 0, ValueError)
      << "a language model without room";
  HETERO_CHECK(llm.capacity <= kMostTokens && llm.vocabulary <= kMostTokens, ValueError)
      << "a language model of " << llm.vocabulary << " tokens that remembers " << llm.capacity;
  return llm;
}

/*! \brief Kernels with a proof to repeat on another driver; a default one needs none. */
std::vector<TunedKernel> ReadTuned(const json::Array& kernels) {
  std::vector<TunedKernel> tuned;
  for (const json::Value& value : kernels) {
    const auto kernel = value.cast<json::Object>();
    if (kernel.find(ffi::String("function")) == kernel.end()) continue;
    const Reader reader(kernel);
    tuned.push_back({reader.Text("function"), reader.Text("kernel"), reader.Text("scheduled"),
                     reader.Text("device"), reader.Text("driver"), KernelProof()});
    // Artefacts of before have none.
    if (const auto proof = Part(kernel, "proof")) tuned.back().proof = KernelProof::Read(*proof);
  }
  return tuned;
}

/*! \brief The manifest's text, once every byte of the file agrees with its checksums. */
Checked ReadChecked(std::istream& file, uint64_t size) {
  std::string signature = SignatureAt(file, size);
  size -= signature.size();
  HETERO_CHECK(size > kFooterBytes, ValueError) << "not an artefact of hetero_tvm, or cut short";
  std::string footer(kFooterBytes, '\0');
  file.seekg(static_cast<std::streamoff>(size - kFooterBytes));
  file.read(footer.data(), static_cast<std::streamsize>(footer.size()));
  HETERO_CHECK(footer.compare(kDigestBytes + 8, kMagic.size(), kMagic) == 0, ValueError)
      << "not an artefact of hetero_tvm, or cut short";
  uint64_t length = 0;
  std::memcpy(&length, footer.data() + kDigestBytes, sizeof(length));
  HETERO_CHECK(length <= kMaxManifestBytes && length <= size - kFooterBytes, ValueError)
      << "damaged (description of " << length << " bytes)";
  const uint64_t before = size - kFooterBytes - length;
  std::string text(length, '\0');
  file.seekg(static_cast<std::streamoff>(before));
  file.read(text.data(), static_cast<std::streamsize>(length));
  std::string expected;
  for (size_t i = 0; i < kDigestBytes; ++i) {
    static constexpr char kDigits[] = "0123456789abcdef";
    const auto byte = static_cast<uint8_t>(footer[i]);
    expected += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  Sha256 digest;
  digest.Add(text.data(), text.size());
  HETERO_CHECK(digest.Finish() == expected, ValueError)
      << "damaged (its description does not match its checksum); copy it again";
  const json::Object object = ParseDescription(text, "its description");
  const Reader reader(object);
  HETERO_CHECK(reader.Get<int64_t>("format_version") == kFormatVersion, ValueError)
      << "format version " << reader.Get<int64_t>("format_version") << ", this library reads "
      << kFormatVersion;
  const std::optional<json::Object> weights = Part(object, "weights");
  uint64_t code_bytes = before;
  if (weights.has_value()) {
    const Reader reads(*weights);
    const auto offset = static_cast<uint64_t>(reads.Get<int64_t>("offset"));
    const auto bytes = static_cast<uint64_t>(reads.Get<int64_t>("nbytes"));
    code_bytes = static_cast<uint64_t>(reader.Get<int64_t>("library_bytes"));
    HETERO_CHECK(code_bytes <= offset && offset <= before && bytes == before - offset, ValueError)
        << "damaged (its weights are not where its description says)";
    HETERO_CHECK(DigestOf(file, offset, bytes) == reads.Text("sha256"), ValueError)
        << "damaged (the weights do not match their checksum); copy it again";
  }
  HETERO_CHECK(DigestOf(file, 0, code_bytes) == reader.Text("library_sha256"), ValueError)
      << "damaged (the code does not match its checksum); copy it again";
  return {object, std::move(footer), std::move(signature)};
}

void CheckMachine(const Reader& manifest) {
  utsname here{};
  uname(&here);
  const std::string system = manifest.Text("os");
  const std::string machine = manifest.Text("host");
  HETERO_CHECK(system == kSystem && machine == here.machine, ValueError)
      << "its host code is for " << system << " on " << machine << ", this machine is " << kSystem
      << " on " << here.machine;
  // What it needs of the NPU, its NPU module says when it is prepared, and what may stand in.
}

}  // namespace

Sealed ReadSealed(std::istream& file, uint64_t size) {
  const Checked checked = ReadChecked(file, size);
  const json::Object& object = checked.description;
  const Reader reader(object);
  CheckMachine(reader);
  Sealed sealed{{}, checked.footer, checked.signature};
  for (const json::Value& variant : reader.Get<json::Array>("variants")) {
    const auto one = variant.cast<json::Object>();
    const Reader of_one(one);
    sealed.manifest.programs.push_back(
        ReadProgram(one, of_one.Get<int64_t>("length"), of_one.Text("function")));
  }
  if (sealed.manifest.programs.empty()) {
    sealed.manifest.programs.push_back(ReadProgram(object, 0, "main"));
  }
  if (const auto weights = Part(object, "weights")) {
    sealed.manifest.weights = ReadWeights(*weights);
    const Reader place(*weights);
    sealed.manifest.weights_offset = static_cast<uint64_t>(place.Get<int64_t>("offset"));
    sealed.manifest.weights_bytes = static_cast<uint64_t>(place.Get<int64_t>("nbytes"));
    for (Program& program : sealed.manifest.programs) {
      program.weights = WeightsOf(*weights, program.function, sealed.manifest.weights.size());
    }
  }
  if (const auto llm = Part(object, "llm")) sealed.manifest.llm = ReadLlm(*llm);
  if (object.find(ffi::String("kernels")) != object.end()) {
    sealed.manifest.tuned = ReadTuned(reader.Get<json::Array>("kernels"));
  }
  const auto fallback = object.find(ffi::String("fallback"));
  sealed.manifest.has_fallback =
      fallback != object.end() && (*fallback).second.try_cast<bool>().value_or(false);
  return sealed;
}

Manifest Manifest::Read(const std::string& path) {
  std::error_code error;  // a pipe would be waited for, a device read without end
  const bool is_other =
      std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
  HETERO_CHECK(!is_other, ValueError) << path << ": not a file";
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  HETERO_CHECK(file.is_open(), ValueError) << path << ": cannot be opened";
  Sealed sealed;
  try {
    sealed = ReadSealed(file, static_cast<uint64_t>(file.tellg()));
  } catch (const ffi::Error& error) {
    TVM_FFI_THROW(ValueError) << path << ": " << error.message()
                              << "; build it again, for this machine";
  }
  // Last, because a signature is of the hashes: they hold here.
  Imported("hetero_tvm.signature_check")(path, ffi::Bytes(sealed.footer),
                                         ffi::Bytes(sealed.signature));
  return std::move(sealed.manifest);
}

Manifest Manifest::ReadModel(const std::string& path) {
  Manifest manifest = Read(path);
  HETERO_CHECK(!manifest.llm.has_value() && manifest.weights.empty(), ValueError)
      << path << ": a language model, which takes tokens: `hetero_device generate`, or "
      << "`hetero-tvm generate`";
  return manifest;
}

}  // namespace hetero_tvm::runtime
