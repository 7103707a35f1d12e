/*!
 * \file device/artefact.cc
 * \brief Footer, checksums, manifest.
 */
#include "artefact.h"

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/function.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <fstream>

#include "sha256.h"

namespace hetero_tvm::device {
namespace {

namespace ffi = tvm::ffi;
namespace json = tvm::ffi::json;

constexpr int64_t kFormatVersion = 4;  // FORMAT_VERSION of hetero_tvm/bundle.py
constexpr size_t kDigestBytes = 32;
constexpr size_t kFooterBytes = kDigestBytes + 8 + 8;
constexpr uint64_t kMaxManifestBytes = uint64_t{64} << 20;
constexpr size_t kSignatureBlockBytes = 64 + 32 + 8;
constexpr const char* kSignatureMagic = "HETROSIG";
constexpr const char* kMagic = "HETROTVM";

[[noreturn]] void Refuse(const std::string& path, const std::string& why) {
  TVM_FFI_THROW(ValueError) << path << ": " << why << "; deploy it again";
  TVM_FFI_UNREACHABLE();
}

/*! \brief The next `size` bytes; fewer at the file's end. */
std::string Read(std::ifstream* file, uint64_t size) {
  std::string bytes(size, '\0');
  file->read(bytes.data(), static_cast<std::streamsize>(size));
  bytes.resize(static_cast<size_t>(file->gcount()));
  return bytes;
}

std::string DigestOf(std::ifstream* file, uint64_t size) {
  constexpr uint64_t kBlock = 1 << 20;
  Sha256 digest;
  file->seekg(0);
  while (size > 0) {
    const std::string block = Read(file, std::min(size, kBlock));
    if (block.empty()) break;
    digest.Add(block.data(), block.size());
    size -= block.size();
  }
  return digest.Digest();
}

/*! \brief The signature at the end of a file of `size` bytes; empty where there is none. */
std::string SignatureAt(std::ifstream* file, uint64_t size) {
  if (size < kSignatureBlockBytes) return "";
  file->seekg(static_cast<std::streamoff>(size - kSignatureBlockBytes));
  std::string block = Read(file, kSignatureBlockBytes);
  const std::string magic = kSignatureMagic;
  return block.substr(block.size() - magic.size()) == magic ? block : "";
}

template <typename T>
T Member(const json::Object& object, const char* key) {
  const auto found = object.find(ffi::String(key));
  if (found == object.end()) TVM_FFI_THROW(ValueError) << "no '" << key << "'";
  std::optional<T> value = (*found).second.template try_cast<T>();
  if (!value.has_value()) TVM_FFI_THROW(ValueError) << "'" << key << "' has the wrong type";
  return *std::move(value);
}

std::vector<int64_t> Numbers(const json::Array& array) {
  std::vector<int64_t> numbers;
  for (const json::Value& value : array) numbers.push_back(value.cast<int64_t>());
  return numbers;
}

std::vector<Border> Tensors(const json::Object& object, const char* side) {
  std::vector<Border> tensors;
  for (const json::Value& value : Member<json::Array>(object, side)) {
    const auto tensor = value.cast<json::Object>();
    tensors.push_back({std::string(Member<ffi::String>(tensor, "name")),
                       std::string(Member<ffi::String>(tensor, "dtype")),
                       Numbers(Member<json::Array>(tensor, "shape")),
                       {}});
  }
  return tensors;
}

Artefact Parse(const std::string& path, const json::Object& manifest) {
  if (Member<int64_t>(manifest, "format_version") != kFormatVersion) {
    Refuse(path, "of another version of hetero_tvm");
  }
  Artefact artefact{path, "main", Tensors(manifest, "inputs"), Tensors(manifest, "outputs")};
  const auto axes = Member<json::Array>(manifest, "output_axes");
  if (axes.size() != artefact.outputs.size()) Refuse(path, "damaged (its outputs do not match)");
  auto output = artefact.outputs.begin();
  for (const json::Value& order : axes) {
    if (order != nullptr) output->axes = Numbers(order.cast<json::Array>());
    ++output;
  }
  // Built for several lengths: what stands above is the longest one's, which is the last.
  const auto variants = Member<json::Array>(manifest, "variants");
  for (const json::Value& variant : variants) {
    artefact.function = std::string(Member<ffi::String>(variant.cast<json::Object>(), "function"));
  }
  return artefact;
}

}  // namespace

Artefact ReadArtefact(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) Refuse(path, "cannot be read");
  auto size = static_cast<uint64_t>(file.tellg());
  const std::string block = SignatureAt(&file, size);
  size -= block.size();
  if (size < kFooterBytes) Refuse(path, "no artefact of hetero_tvm, or cut short");
  file.seekg(static_cast<std::streamoff>(size - kFooterBytes));
  const std::string footer = Read(&file, kFooterBytes);
  if (footer.size() != kFooterBytes || footer.substr(kDigestBytes + 8) != kMagic) {
    Refuse(path, "no artefact of hetero_tvm, or cut short");
  }
  uint64_t length = 0;
  std::memcpy(&length, footer.data() + kDigestBytes, sizeof(length));
  if (length > kMaxManifestBytes || length > size - kFooterBytes) Refuse(path, "damaged");
  const uint64_t code_bytes = size - kFooterBytes - length;
  file.seekg(static_cast<std::streamoff>(code_bytes));
  const std::string text = Read(&file, length);
  Sha256 digest;
  digest.Add(text.data(), text.size());
  if (digest.Digest() != footer.substr(0, kDigestBytes)) {
    Refuse(path, "damaged (its description does not match its checksum)");
  }
  const auto manifest = json::Parse(ffi::String(text)).try_cast<json::Object>();
  if (!manifest.has_value()) Refuse(path, "damaged (its description is no object)");
  const auto promised = std::string(Member<ffi::String>(*manifest, "library_sha256"));
  if (Hex(DigestOf(&file, code_bytes)) != promised) {
    Refuse(path, "damaged (the code does not match its checksum)");
  }
  // Last, because a signature is of the hashes: they hold here.
  ffi::Function::GetGlobalRequired("hetero_tvm.signature_check")(path, ffi::Bytes(footer),
                                                                 ffi::Bytes(block));
  return Parse(path, *manifest);
}

ffi::Module LoadChecked(const std::string& path) {
  ReadArtefact(path);
  ffi::Module module = ffi::Module::LoadFromFile(path);
  ffi::Function::GetGlobalRequired("hetero_tvm.module_prepare")(module);
  return module;
}

}  // namespace hetero_tvm::device
