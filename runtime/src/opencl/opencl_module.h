/*!
 * \file opencl/opencl_module.h
 * \brief TVM's module kind "opencl": kernels as functions.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_OPENCL_MODULE_H_
#define HETERO_TVM_RUNTIME_OPENCL_OPENCL_MODULE_H_

#include <tvm/ffi/extra/module.h>

#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "device_api.h"
#include "kernel_table.h"
#include "session.h"

namespace hetero_tvm::runtime::opencl {

/*! \brief Where each kernel argument and launch parameter of a packed call goes; made once. */
class KernelFunction {
 public:
  /*! \brief Throws ValueError when OpenCL has no such argument or launch parameter. */
  KernelFunction(const std::string& name, const KernelInfo& info);

  /*! \brief Launch `kernel` with a packed call's arguments: kernel arguments, then extents. */
  void Launch(ClSession& session, const Kernel& kernel, tvm::ffi::PackedArgs args) const;

 private:
  enum class ArgKind { kPointer, kImage, kInteger, kHalf, kFloat, kDouble };
  struct Arg {
    ArgKind kind;
    size_t bytes;
  };
  struct Extent {
    bool of_groups;  // else of work-items in a group
    size_t axis;
  };

  void BindScalar(const ClApi& api, const Kernel& kernel, cl_uint index,
                  const tvm::ffi::AnyView& value) const;

  std::string name_;
  std::vector<Arg> args_;
  std::map<uint32_t, ImageArgument> images_;  // of those of kind kImage
  std::vector<Extent> extents_;
  cl_uint axes_ = 1;
};

/*! \brief A module of kernels. Programs are built when the first function is asked for. */
class OpenClModule : public tvm::ffi::ModuleObj {
 public:
  static constexpr const char* kKind = "opencl";

  OpenClModule(DeviceApi& device, std::unique_ptr<const KernelTable> table);

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final {
    return tvm::ffi::Module::kBinarySerializable | tvm::ffi::Module::kRunnable;
  }
  tvm::ffi::Bytes SaveToBytes() const final;
  tvm::ffi::String InspectSource(const tvm::ffi::String&) const final;
  bool ImplementsFunction(const tvm::ffi::String& name) final;
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;

  /*! \brief Build every kernel now rather than at the first call. Thread-safe. */
  void Prepare();

 private:
  DeviceApi& device_;
  const std::unique_ptr<const KernelTable> table_;
  std::map<std::string, KernelFunction> functions_;
  std::mutex mutex_;  // guards kernels_ while they are built; taken by Prepare()
  std::map<std::string, Kernel> kernels_;  // empty until Prepare(), constant afterwards
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_OPENCL_MODULE_H_
