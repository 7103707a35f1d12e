/*!
 * \file border.cc
 * \brief Shielding of functions, and a way to have tvm-ffi throw.
 */
#include "border.h"

#include <tvm/ffi/extra/module.h>

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

// Loading a file of this kind fails with the error that is pending: the one function of tvm-ffi
// that calls a function by name and lets C++ errors out.
constexpr const char* kLoader = "ffi.Module.load_from_file.hetero_pending_error";

const ffi::String& File() {
  static const auto* const file = new ffi::String("x.hetero_pending_error");  // never freed
  return *file;
}

int FailWithPending(void*, const TVMFFIAny*, int32_t, TVMFFIAny*) { return -1; }

}  // namespace

void ThrowFromTvm() {
  alignas(ffi::Module) unsigned char bytes[sizeof(ffi::Module)];
  new (bytes) ffi::Module(ffi::Module::LoadFromFile(File()));  // in plain bytes: see AtBorder
  __builtin_trap();
}

TVM_FFI_STATIC_INIT_BLOCK() {
  ffi::Function::SetGlobal(kLoader, ffi::Function::FromExternC(nullptr, FailWithPending, nullptr));
}

}  // namespace hetero_tvm::runtime
