/*!
 * \file opencl/kernel_table.cc
 * \brief Reading, writing and checking of OpenCL modules.
 */
#include "kernel_table.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/reflection/accessor.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <utility>

#include "../wire.h"
#include "cl_api.h"

namespace hetero_tvm::runtime::opencl {
namespace {

namespace ffi = tvm::ffi;

constexpr std::string_view kFunctionMark = "// Function: ";
constexpr const char* kWhat = "OpenCL module";
constexpr size_t kMostPixels = size_t{1} << 30U;  // a kernel counts them in an int

KernelInfo ReadKernel(WireReader& reader) {
  KernelInfo info;
  for (auto left = reader.Count(4); left > 0; --left) {
    const auto code = reader.Number<uint8_t>();
    const auto bits = reader.Number<uint8_t>();
    info.arg_types.push_back({code, bits, reader.Number<uint16_t>()});
  }
  for (auto left = reader.Count(8); left > 0; --left) info.launch_tags.emplace_back(reader.Text());
  for (auto left = reader.Count(4); left > 0; --left) {
    info.extra_tags.push_back(reader.Number<int32_t>());
  }
  return info;
}

void WriteKernel(WireWriter& writer, const KernelInfo& info) {
  writer.Number<uint64_t>(info.arg_types.size());
  for (const DLDataType& type : info.arg_types) {
    writer.Number<uint8_t>(type.code);
    writer.Number<uint8_t>(type.bits);
    writer.Number<uint16_t>(type.lanes);
  }
  writer.Number<uint64_t>(info.launch_tags.size());
  for (const std::string& tag : info.launch_tags) writer.Text(tag);
  writer.Number<uint64_t>(info.extra_tags.size());
  for (const int32_t tag : info.extra_tags) writer.Number<int32_t>(tag);
}

struct ImageType {
  std::string_view name;
  cl_uint channel;
  size_t bytes;  // of a channel
};

constexpr std::string_view kImageMark = "hetero_image_";
constexpr std::array kImageTypes = {
    ImageType{"float", kFloat, 4},
    ImageType{"half", kHalfFloat, 2},
    ImageType{"int", kSignedInt32, 4},
    ImageType{"uint", kUnsignedInt32, 4},
};

/*! \brief What an argument that begins with kImageMark is. Throws ValueError. */
ImageArgument ReadImage(std::string_view declared, const std::string& kernel) {
  declared.remove_prefix(kImageMark.size());
  for (const ImageType& type : kImageTypes) {
    const std::string before = std::string(type.name) + "_t /*";
    if (declared.substr(0, before.size()) != before) continue;
    const std::string_view digits = declared.substr(before.size());
    size_t pixels = 0;
    const auto parsed = std::from_chars(digits.data(), digits.data() + digits.size(), pixels);
    if (parsed.ec == std::errc() && pixels > 0 && pixels <= kMostPixels) {
      return {type.channel, 4 * type.bytes, pixels};
    }
  }
  TVM_FFI_THROW(ValueError) << kWhat << ": kernel " << kernel << " declares an image that is none";
  TVM_FFI_UNREACHABLE();
}

/*! \brief The images among the arguments of `kernel`, by the source's declaration of it. */
std::map<uint32_t, ImageArgument> FindImages(std::string_view source, const std::string& kernel) {
  std::map<uint32_t, ImageArgument> images;
  const std::string head = " " + kernel + "(";
  const size_t found = source.find(head);
  if (found == source.npos) return images;
  std::string_view rest = source.substr(found + head.size());
  rest = rest.substr(0, rest.find(')'));
  for (uint32_t index = 0; !rest.empty(); ++index) {
    const size_t end = std::min(rest.find(','), rest.size());
    const std::string_view argument = rest.substr(0, end);
    const size_t mark = argument.find(kImageMark);
    if (mark != argument.npos) images[index] = ReadImage(argument.substr(mark), kernel);
    rest.remove_prefix(std::min(end + 1, rest.size()));
  }
  return images;
}

}  // namespace

KernelTable::KernelTable(std::string format, std::string code,
                         std::map<std::string, KernelInfo> kernels)
    : format_(std::move(format)), code_(std::move(code)), kernels_(std::move(kernels)) {
  AttachSources();
}

std::unique_ptr<const KernelTable> KernelTable::Parse(std::string_view bytes) {
  WireReader reader(bytes, kWhat);
  std::string format(reader.Text());
  std::map<std::string, KernelInfo> kernels;
  for (auto left = reader.Count(8); left > 0; --left) {
    std::string key(reader.Text());
    reader.Text();  // the name again
    kernels[std::move(key)] = ReadKernel(reader);
  }
  std::string code(reader.Text());
  reader.ExpectEnd();
  return std::unique_ptr<const KernelTable>(
      new KernelTable(std::move(format), std::move(code), std::move(kernels)));
}

std::unique_ptr<const KernelTable> KernelTable::FromCompiler(
    std::string_view code, std::string_view format,
    const ffi::Map<ffi::String, ffi::ObjectRef>& functions) {
  // The class is not in the wheel's headers, so its fields are read by name.
  constexpr std::string_view kInfo = "runtime.FunctionInfo";
  const ffi::reflection::FieldGetter arg_types(kInfo, "arg_types");
  const ffi::reflection::FieldGetter launch_tags(kInfo, "launch_param_tags");
  const ffi::reflection::FieldGetter extra_tags(kInfo, "arg_extra_tags");
  std::map<std::string, KernelInfo> kernels;
  for (const auto& [name, function] : functions) {
    KernelInfo& info = kernels[std::string(name)];
    for (const DLDataType type : arg_types(function).cast<ffi::Array<DLDataType>>()) {
      info.arg_types.push_back(type);
    }
    for (const ffi::String& tag : launch_tags(function).cast<ffi::Array<ffi::String>>()) {
      info.launch_tags.emplace_back(tag);
    }
    for (const int64_t tag : extra_tags(function).cast<ffi::Array<int64_t>>()) {
      info.extra_tags.push_back(static_cast<int32_t>(tag));
    }
  }
  return std::unique_ptr<const KernelTable>(
      new KernelTable(std::string(format), std::string(code), std::move(kernels)));
}

std::string KernelTable::Serialize() const {
  WireWriter writer;
  writer.Text(format_);
  writer.Number<uint64_t>(kernels_.size());
  for (const auto& [name, info] : kernels_) {
    writer.Text(name);
    writer.Text(name);
    WriteKernel(writer, info);
  }
  writer.Text(code_);
  return writer.Finish();
}

void KernelTable::AttachSources() {
  const std::string_view code = code_;
  for (size_t mark = code.find(kFunctionMark); mark != std::string_view::npos;) {
    const size_t name = mark + kFunctionMark.size();
    const size_t line_end = std::min(code.find('\n', name), code.size());
    const size_t next = code.find(kFunctionMark, line_end);
    const auto found = kernels_.find(std::string(code.substr(name, line_end - name)));
    if (found != kernels_.end()) {
      found->second.source = code.substr(line_end, next == code.npos ? next : next - line_end);
    }
    mark = next;
  }
  // Code without marks was not written by TVM's generator: it is one program for all kernels.
  for (auto& [name, info] : kernels_) {
    if (info.source.empty()) info.source = code;
    info.images = FindImages(info.source, name);
  }
}

}  // namespace hetero_tvm::runtime::opencl
