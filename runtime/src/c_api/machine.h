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

/*! \brief The artefact's code with everything in it built. Requires: its manifest was read. */
tvm::ffi::Module LoadMachine(const std::string& path, const Manifest& manifest);

/*! \brief A tensor in the memory of all devices; its elements are anything. */
tvm::ffi::Tensor NewTensor(const BorderTensor& like);

/*! \brief Set all elements; `data` has the bytes of the whole tensor. */
void SetBytes(const tvm::ffi::Tensor& tensor, const void* data, size_t bytes);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_MACHINE_H_
