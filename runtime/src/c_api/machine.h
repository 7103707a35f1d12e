/*!
 * \file c_api/machine.h
 * \brief TVM's virtual machine over an artefact, and tensors for it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_MACHINE_H_
#define HETERO_TVM_RUNTIME_C_API_MACHINE_H_

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>

#include <string>

#include "manifest.h"

namespace hetero_tvm::runtime {

/*! \brief An artefact's functions, and whose memory their tensors are in. */
struct Machine {
  tvm::ffi::Module functions;
  DLDevice device;
};

/*!
 * \brief The artefact's code with everything in it built. Requires: its manifest was read.
 *
 * Without OpenCL it is the model that the artefact carries for a CPU (CpuMachine), if its user
 * allows that (Fallbacks), and `manifest` then describes outputs that lie in the model's order.
 * Else throws EnvironmentProblem with what is missing and what would help.
 */
tvm::ffi::Module LoadCode(const std::string& path, Manifest* manifest);

/*! \brief LoadCode, ready to be called. */
Machine LoadMachine(const std::string& path, Manifest* manifest);

/*! \brief Whose memory the tensors of such code are in: the CPU's or, for all devices, OpenCL's. */
DLDevice DeviceOf(const tvm::ffi::Module& code);

/*! \brief A tensor in the memory of `device`; its elements are anything. */
tvm::ffi::Tensor NewTensor(const BorderTensor& like, DLDevice device);

/*! \brief Set all elements; `data` has the bytes of the whole tensor. */
void SetBytes(const tvm::ffi::Tensor& tensor, const void* data, size_t bytes);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_MACHINE_H_
