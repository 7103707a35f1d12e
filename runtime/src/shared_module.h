/*!
 * \file shared_module.h
 * \brief Artefacts as modules, one for each file while anybody has it.
 */
#ifndef HETERO_TVM_RUNTIME_SHARED_MODULE_H_
#define HETERO_TVM_RUNTIME_SHARED_MODULE_H_

#include <tvm/ffi/extra/module.h>

#include <string>

namespace hetero_tvm::runtime {

/*!
 * \brief The module in a file, a bare name too, which the system would look for elsewhere.
 *
 * A library has one place for the module that its code belongs to, so two modules of one library
 * cannot live beside each other: whoever loads a file that is loaded gets the same module. It ends
 * with the last who holds it. Thread-safe.
 */
tvm::ffi::Module LoadModule(const std::string& path);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_SHARED_MODULE_H_
