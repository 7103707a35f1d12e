/*!
 * \file c_api/machine.cc
 * \brief Loading and allocating by the names that TVM registers.
 */
#include "machine.h"

#include <tvm/ffi/container/shape.h>
#include <tvm/ffi/string.h>

#include <string_view>

#include "../border.h"
#include "../context.h"
#include "../imported.h"
#include "../shared_module.h"
#include "cpu_machine.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

constexpr DLDevice kGpu{kDLOpenCL, 0};
constexpr int kPooled = 2;  // TVM's number for an allocator that keeps what was freed

/*! \brief Open OpenCL; false where there is none and the CPU may do all of it. */
bool OpenOpenCl(const Manifest& manifest) {
  try {
    Imported("hetero_tvm.opencl_open")();
    return true;
  } catch (const ffi::Error& error) {
    if (error.kind() != "EnvironmentProblem" || !manifest.has_fallback) throw;
    Fallbacks& fallbacks = Context::Get().fallbacks;
    if (!fallbacks.AreAllowed()) {
      throw ffi::Error(error.kind(),
                       error.message() +
                           "; or run it on the CPU with --allow-fallback (HETERO_ALLOW_FALLBACK=1)",
                       error.backtrace());
    }
    fallbacks.Tell("ONNX Runtime computes the model on the CPU: " + error.message());
    return false;
  }
}

}  // namespace

ffi::Module LoadCode(const std::string& path, Manifest* manifest) {
  if (!OpenOpenCl(*manifest)) {
    for (Program& program : manifest->programs) {
      for (BorderTensor& output : program.outputs) output.axes.clear();
    }
    return ffi::Module(ffi::make_object<CpuMachine>(LoadModule(path), manifest->programs));
  }
  Context& context = Context::Get();
  const opencl::ClDevice& device = context.opencl.Session().device();
  ffi::Module module = LoadModule(path);
  CheckTuned(path, manifest->tuned, module, device.name, device.driver_version, context.settings);
  if (!manifest->weights.empty()) {
    Imported("hetero_tvm.npu_weights_map")(module, ffi::String(path),
                                           static_cast<int64_t>(manifest->weights_offset),
                                           static_cast<int64_t>(manifest->weights_bytes));
  }
  Imported("hetero_tvm.module_prepare")(module);
  return module;
}

Machine LoadMachine(const std::string& path, Manifest* manifest) {
  const ffi::Module code = LoadCode(path, manifest);
  const DLDevice device = DeviceOf(code);
  auto machine = FunctionOf(code, "vm_load_executable")().cast<ffi::Module>();
  FunctionOf(machine, "vm_initialization")(static_cast<int>(device.device_type), device.device_id,
                                           kPooled, static_cast<int>(kDLCPU), 0, kPooled);
  return {machine, device};
}

DLDevice DeviceOf(const ffi::Module& code) {
  const bool is_cpu = std::string_view(code->kind()) == CpuMachine::kKind;
  return is_cpu ? DLDevice{kDLCPU, 0} : kGpu;
}

ffi::Tensor NewTensor(const BorderTensor& like, DLDevice device) {
  return Imported("runtime.TVMTensorAllocWithScope")(
             ffi::Shape(like.shape.begin(), like.shape.end()), like.dtype, device, nullptr)
      .cast<ffi::Tensor>();
}

void SetBytes(const ffi::Tensor& tensor, const void* data, size_t bytes) {
  Imported("runtime.TVMTensorCopyFromBytes")(tensor, const_cast<void*>(data),
                                             static_cast<int64_t>(bytes));
}

// For callers behind TVM's RPC, whose server loads with these.
TVM_FFI_STATIC_INIT_BLOCK() {
  GlobalNames()
      .Typed("hetero_tvm.code_load",
             [](const ffi::String& path) {
               Manifest manifest = Manifest::ReadModel(std::string(path));
               return LoadCode(std::string(path), &manifest);
             })
      .Typed("hetero_tvm.code_is_cpu",
             [](const ffi::Module& code) { return DeviceOf(code).device_type == kDLCPU; });
}

}  // namespace hetero_tvm::runtime
