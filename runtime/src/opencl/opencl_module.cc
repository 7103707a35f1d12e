/*!
 * \file opencl/opencl_module.cc
 * \brief Building a module's kernels and launching them from packed calls.
 */
#include "opencl_module.h"

#include <tvm/ffi/cast.h>
#include <tvm/ffi/container/tensor.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "../border.h"
#include "../check.h"
#include "../half.h"

namespace hetero_tvm::runtime::opencl {
namespace {

namespace ffi = tvm::ffi;

/*! \brief The address that a packed argument stands for: a raw pointer or a tensor's first byte. */
void* AddressOf(const ffi::AnyView& value) {
  const int32_t type = value.type_index();
  if (type == ffi::TypeIndex::kTVMFFIDLTensorPtr || type == ffi::TypeIndex::kTVMFFITensor) {
    const auto* tensor = value.cast<DLTensor*>();
    return static_cast<char*>(tensor->data) + tensor->byte_offset;
  }
  return value.cast<void*>();
}

}  // namespace

KernelFunction::KernelFunction(const std::string& name, const KernelInfo& info)
    : name_(name), images_(info.images) {
  for (const DLDataType& type : info.arg_types) {
    const size_t bytes = (type.bits + 7U) / 8U;
    if (type.code == kDLOpaqueHandle) {
      const bool is_image = images_.count(static_cast<uint32_t>(args_.size())) != 0;
      args_.push_back({is_image ? ArgKind::kImage : ArgKind::kPointer, sizeof(void*)});
    } else if (type.lanes == 1 && type.code == kDLFloat &&
               (bytes == 2 || bytes == 4 || bytes == 8)) {
      args_.push_back({bytes == 2   ? ArgKind::kHalf
                       : bytes == 4 ? ArgKind::kFloat
                                    : ArgKind::kDouble,
                       bytes});
    } else if (type.lanes == 1 && bytes <= 8 &&
               (type.code == kDLInt || type.code == kDLUInt || type.code == kDLBool)) {
      args_.push_back({ArgKind::kInteger, bytes});
    } else {
      TVM_FFI_THROW(ValueError) << "OpenCL kernel " << name << ": argument " << args_.size()
                                << " has type code " << int{type.code} << " with " << int{type.bits}
                                << " bits, which cannot be passed to a kernel";
    }
  }
  for (const std::string& tag : info.launch_tags) {
    const size_t dot = tag.find('.');
    const std::string what = tag.substr(0, dot);
    const char letter = dot + 2 == tag.size() ? tag.back() : '\0';
    if ((what != "blockIdx" && what != "threadIdx") || letter < 'x' || letter > 'z') {
      TVM_FFI_THROW(ValueError) << "OpenCL kernel " << name << ": launch parameter '" << tag
                                << "' is not one of OpenCL's";
    }
    const auto axis = static_cast<size_t>(letter - 'x');
    extents_.push_back({what == "blockIdx", axis});
    axes_ = std::max(axes_, static_cast<cl_uint>(axis + 1));
  }
  const bool plain = std::all_of(info.extra_tags.begin(), info.extra_tags.end(),
                                 [](int32_t tag) { return tag == 0; });
  HETERO_CHECK(plain, ValueError) << "OpenCL kernel " << name
                                  << " wants tensor maps, which only CUDA has";
}

void KernelFunction::BindScalar(const ClApi& api, const Kernel& kernel, cl_uint index,
                                const ffi::AnyView& value) const {
  const Arg& arg = args_[index];
  char bytes[8] = {};
  if (arg.kind == ArgKind::kInteger) {
    const auto number = value.cast<int64_t>();  // little endian: the low bytes come first
    std::memcpy(bytes, &number, sizeof(number));
  } else {
    const auto number = value.cast<double>();
    const auto single = static_cast<float>(number);
    const uint16_t half = HalfFromFloat(single);
    if (arg.kind == ArgKind::kHalf) std::memcpy(bytes, &half, sizeof(half));
    if (arg.kind == ArgKind::kFloat) std::memcpy(bytes, &single, sizeof(single));
    if (arg.kind == ArgKind::kDouble) std::memcpy(bytes, &number, sizeof(number));
  }
  const cl_int status = api.SetKernelArg(kernel.handle.Get(), index, arg.bytes, bytes);
  if (status != kSuccess) {
    TVM_FFI_THROW(DeviceFailure) << "OpenCL: argument " << index << " of kernel " << name_
                                 << " was refused (clSetKernelArg): " << ClProblem(status);
  }
}

void KernelFunction::Launch(ClSession& session, const Kernel& kernel, ffi::PackedArgs args) const {
  HETERO_CHECK(static_cast<size_t>(args.size()) == args_.size() + extents_.size(), TypeError)
      << "OpenCL kernel " << name_ << " takes " << args_.size() << " arguments and "
      << extents_.size() << " launch parameters, got " << args.size() << " in all";
  LaunchShape shape;
  shape.axes = axes_;
  for (size_t i = 0; i < extents_.size(); ++i) {
    const auto extent = args[static_cast<int>(args_.size() + i)].cast<int64_t>();
    HETERO_CHECK(extent >= 0, ValueError)
        << "OpenCL kernel " << name_ << ": launch parameter " << i << " is " << extent;
    (extents_[i].of_groups ? shape.groups : shape.items)[extents_[i].axis] =
        static_cast<size_t>(extent);
  }
  session.Launch(kernel, shape, [&](UnifiedMemory& memory, const ClApi& api) {
    for (cl_uint index = 0; index < args_.size(); ++index) {
      const ffi::AnyView value = args[static_cast<int>(index)];
      const ArgKind kind = args_[index].kind;
      if (kind == ArgKind::kImage && kernel.images != 0) {
        memory.BindImage(kernel.handle.Get(), index, AddressOf(value), images_.at(index), name_);
      } else if (kind == ArgKind::kPointer || kind == ArgKind::kImage) {
        memory.Bind(kernel.handle.Get(), index, AddressOf(value), name_);
      } else {
        BindScalar(api, kernel, index, value);
      }
    }
  });
}

OpenClModule::OpenClModule(DeviceApi& device, std::unique_ptr<const KernelTable> table)
    : device_(device), table_(std::move(table)) {
  for (const auto& [name, info] : table_->kernels())
    functions_.emplace(name, KernelFunction(name, info));
}

ffi::Bytes OpenClModule::SaveToBytes() const {
  return AtBorder([&]() -> ffi::Bytes { return {table_->Serialize()}; });
}

ffi::String OpenClModule::InspectSource(const ffi::String&) const {
  return AtBorder([&]() -> ffi::String { return table_->code(); });
}

bool OpenClModule::ImplementsFunction(const ffi::String& name) {
  return AtBorder([&] { return functions_.count(std::string(name)) != 0; });
}

ffi::Optional<ffi::Function> OpenClModule::GetFunction(const ffi::String& name) {
  return AtBorder([&]() -> ffi::Optional<ffi::Function> {
    const auto function = functions_.find(std::string(name));
    if (function == functions_.end()) return std::nullopt;
    Prepare();
    ClSession& session = device_.Session();
    const KernelFunction& launcher = function->second;
    const Kernel& kernel = kernels_.at(function->first);
    auto self = ffi::GetObjectPtr<ffi::ModuleObj>(this);  // keeps launcher and kernel alive
    return Shielded(ffi::Function::FromPacked(
        [self, &session, &launcher, &kernel](ffi::PackedArgs args, ffi::Any*) {
          launcher.Launch(session, kernel, args);
        }));
  });
}

void OpenClModule::Prepare() {
  const std::scoped_lock lock(mutex_);
  if (!kernels_.empty()) return;
  ClSession& session = device_.Session();
  // One after the other: the drivers measured compile under a lock of their own.
  std::map<std::string, Kernel> built;
  for (const auto& [name, info] : table_->kernels()) {
    built.emplace(name, session.Build(name, info.source, info.images));
  }
  kernels_ = std::move(built);
}

}  // namespace hetero_tvm::runtime::opencl
