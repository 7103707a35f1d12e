/*!
 * \file c_api/machine.cc
 * \brief Loading and allocating by the names that TVM registers.
 */
#include "machine.h"

#include <tvm/ffi/container/shape.h>

#include "../imported.h"
#include "../shared_module.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

constexpr DLDevice kGpu{kDLOpenCL, 0};
constexpr int kPooled = 2;  // TVM's number for an allocator that keeps what was freed

}  // namespace

ffi::Module LoadMachine(const std::string& path, const Manifest& manifest) {
  Imported("hetero_tvm.opencl_open")();
  const ffi::Module module = LoadModule(path);
  if (!manifest.weights.empty()) {
    Imported("hetero_tvm.npu_weights_map")(module, ffi::String(path),
                                           static_cast<int64_t>(manifest.weights_offset),
                                           static_cast<int64_t>(manifest.weights_bytes));
  }
  Imported("hetero_tvm.module_prepare")(module);
  auto machine = FunctionOf(module, "vm_load_executable")().cast<ffi::Module>();
  FunctionOf(machine, "vm_initialization")(static_cast<int>(kGpu.device_type), kGpu.device_id,
                                           kPooled, static_cast<int>(kDLCPU), 0, kPooled);
  return machine;
}

ffi::Tensor NewTensor(const BorderTensor& like) {
  return Imported("runtime.TVMTensorAllocWithScope")(
             ffi::Shape(like.shape.begin(), like.shape.end()), like.dtype, kGpu, nullptr)
      .cast<ffi::Tensor>();
}

void SetBytes(const ffi::Tensor& tensor, const void* data, size_t bytes) {
  Imported("runtime.TVMTensorCopyFromBytes")(tensor, const_cast<void*>(data),
                                             static_cast<int64_t>(bytes));
}

}  // namespace hetero_tvm::runtime
