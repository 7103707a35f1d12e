/*!
 * \file opencl/kernel_table.cc
 * \brief Reading, writing and checking of OpenCL modules.
 */
#include "kernel_table.h"

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/dtype.h>
#include <tvm/ffi/reflection/accessor.h>

#include <algorithm>
#include <utility>

#include "../wire.h"

namespace hetero_tvm::runtime::opencl {
namespace {

namespace ffi = tvm::ffi;

constexpr std::string_view kFunctionMark = "// Function: ";
constexpr const char* kWhat = "OpenCL module";

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
  }
}

}  // namespace hetero_tvm::runtime::opencl
