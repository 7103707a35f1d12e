/*!
 * \file npu/ort_api.cc
 * \brief Loading of ONNX Runtime and of its function table.
 */
#include "ort_api.h"

#include <dlfcn.h>
#include <tvm/ffi/error.h>

namespace hetero_tvm::runtime::npu {
namespace {

constexpr uint32_t kInterfaceVersion = 23;
constexpr const char* kInstallHint = "pip install onnxruntime==1.31.1";

/*! \brief What OrtGetApiBase() returns. */
struct OrtApiBase {
  const void* const* (*get_api)(uint32_t version);
  const char* (*get_version)();
};

}  // namespace

std::unique_ptr<const OrtApi> OrtApi::Load(const std::string& library) {
  if (library.empty()) {
    TVM_FFI_THROW(EnvironmentProblem) << "ONNX Runtime not found; " << kInstallHint;
  }
  const CallGuard guard("dlopen of ONNX Runtime");
  void* handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    TVM_FFI_THROW(EnvironmentProblem)
        << "ONNX Runtime cannot be loaded: " << dlerror() << "; " << kInstallHint;
  }
  const auto get_base = reinterpret_cast<const OrtApiBase* (*)()>(dlsym(handle, "OrtGetApiBase"));
  const OrtApiBase* base = get_base == nullptr ? nullptr : get_base();
  const void* const* slots = base == nullptr ? nullptr : base->get_api(kInterfaceVersion);
  if (slots == nullptr) {
    TVM_FFI_THROW(EnvironmentProblem)
        << library << " has no interface version " << kInterfaceVersion << "; " << kInstallHint;
  }
  auto api = std::make_unique<OrtApi>();
  api->version = base->get_version();
#define HETERO_ORT_RESOLVE(slot, result, name, parameters)                              \
  api->name.Set(reinterpret_cast<result(*) parameters>(const_cast<void*>(slots[slot])), \
                "ONNX Runtime's " #name);
  HETERO_ORT_FUNCTIONS(HETERO_ORT_RESOLVE)
#undef HETERO_ORT_RESOLVE
  return api;
}

void OrtApi::Check(OrtStatus* status, const std::string& what) const {
  if (status == nullptr) return;
  const char* text = GetErrorMessage(status);
  const std::string message = text == nullptr ? "it failed and does not say why" : text;
  ReleaseStatus(status);
  TVM_FFI_THROW(DeviceFailure) << what << ": " << message;
}

void OrtApi::NothingMade(const std::string& what) {
  TVM_FFI_THROW(DeviceFailure) << what << ": ONNX Runtime says that it succeeded, and gave nothing";
  TVM_FFI_UNREACHABLE();
}

}  // namespace hetero_tvm::runtime::npu
