/*!
 * \file imported.h
 * \brief TVM's functions, as they may be called from here.
 *
 * A plain function object runs TVM's C++ entry point, whose errors would unwind frames of another
 * C++ library than theirs (see border.h). These come back as return values and are thrown here.
 */
#ifndef HETERO_TVM_RUNTIME_IMPORTED_H_
#define HETERO_TVM_RUNTIME_IMPORTED_H_

#include <tvm/ffi/error.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <string>
#include <utility>

#include "border.h"

namespace hetero_tvm::runtime {

/*! \brief The function of that global name; throws where there is none. */
inline tvm::ffi::Function Imported(const char* name) {
  return Shielded(tvm::ffi::Function::GetGlobalRequired(name));
}

/*! \brief A function of `module` or what it imports; throws ValueError where there is none. */
inline tvm::ffi::Function FunctionOf(const tvm::ffi::Module& module, const std::string& name) {
  namespace ffi = tvm::ffi;
  const ffi::Any found = Imported("ffi.ModuleGetFunction")(module, ffi::String(name), true);
  auto function = found.try_cast<ffi::Function>();
  if (!function.has_value()) TVM_FFI_THROW(ValueError) << "no function " << name << " in it";
  return Shielded(*std::move(function));
}

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_IMPORTED_H_
