/*!
 * \file c_api/cpu_machine.h
 * \brief An artefact's whole model on the CPU, called as TVM's virtual machine would be.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_CPU_MACHINE_H_
#define HETERO_TVM_RUNTIME_C_API_CPU_MACHINE_H_

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <map>
#include <string>
#include <vector>

#include "manifest.h"

namespace hetero_tvm::runtime {

/*!
 * \brief What `build --with-fallback` put into an artefact for devices without OpenCL.
 *
 * It has the virtual machine's functions that callers here and behind TVM's RPC use, so none of
 * them needs another way: programs by name, `set_input`, `invoke_stateful`, `get_output`. All
 * tensors are the CPU's. Not thread-safe, as the virtual machine is not.
 */
class CpuMachine : public tvm::ffi::ModuleObj {
 public:
  static constexpr const char* kKind = "hetero_cpu";

  /*! \brief `code`: the loaded artefact; throws ValueError where it carries no such functions. */
  CpuMachine(tvm::ffi::Module code, const std::vector<Program>& programs);

  const char* kind() const final { return kKind; }
  int GetPropertyMask() const final { return tvm::ffi::Module::kRunnable; }
  tvm::ffi::Optional<tvm::ffi::Function> GetFunction(const tvm::ffi::String& name) final;

 private:
  struct One {
    Program program;
    tvm::ffi::Function whole;  // takes inputs, then outputs
    std::vector<tvm::ffi::Tensor> inputs;
    std::vector<tvm::ffi::Tensor> outputs;
  };
  One& Find(const std::string& name);
  static void SetInputs(One* one, tvm::ffi::PackedArgs args, int32_t first);
  static void Invoke(One* one);

  const tvm::ffi::Module code_;  // has what `whole` calls
  std::map<std::string, One> programs_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_CPU_MACHINE_H_
