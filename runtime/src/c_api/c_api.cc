/*!
 * \file c_api/c_api.cc
 * \brief The functions of hetero_tvm/runtime.h: errors become codes, nothing is thrown out.
 */
#include <dlfcn.h>
#include <tvm/ffi/error.h>

#include <algorithm>
#include <exception>
#include <filesystem>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "../check.h"
#include "../context.h"
#include "../imported.h"
#include "hetero_tvm/runtime.h"
#include "model.h"

namespace {

namespace ffi = tvm::ffi;
namespace fs = std::filesystem;
using hetero_tvm::runtime::BorderTensor;
using hetero_tvm::runtime::Context;
using hetero_tvm::runtime::Model;

thread_local std::string last_error;

hetero_status StatusOf(const std::string& kind) {
  if (kind == "ValueError" || kind == "TypeError") return HETERO_BAD_INPUT;
  if (kind == "EnvironmentProblem") return HETERO_ENVIRONMENT;
  if (kind == "DeviceFailure" || kind == "RuntimeError") return HETERO_DEVICE;
  return HETERO_INTERNAL;
}

hetero_status Failed(hetero_status status, std::string message) {
  // One line: what TVM adds behind the first is its own call stack.
  message.resize(std::min(message.find('\n'), message.size()));
  last_error = std::move(message);
  return status;
}

template <typename Body>
hetero_status Guarded(Body&& body) noexcept {
  try {
    body();
    return HETERO_OK;
  } catch (const ffi::Error& error) {
    return Failed(StatusOf(error.kind()), error.message());
  } catch (const std::exception& error) {
    return Failed(HETERO_INTERNAL, error.what());
  }
}

/*! \brief Where a deployment puts what the runtime opens by path: beside the runtime itself. */
void UseNeighbours() {
  static std::once_flag once;
  std::call_once(once, [] {
    Dl_info here{};
    if (dladdr(reinterpret_cast<const void*>(&UseNeighbours), &here) == 0) return;
    std::error_code ignored;
    for (const auto& entry :
         fs::directory_iterator(fs::path(here.dli_fname).parent_path(), ignored)) {
      const std::string name = entry.path().filename().string();
      const char* key = name.rfind("libonnxruntime.so", 0) == 0     ? "ort.library"
                        : name == "libonnxruntime_providers_qnn.so" ? "qnn.library"
                        : name == "libQnnHtp.so"                    ? "qnn.backend"
                                                                    : nullptr;
      hetero_tvm::runtime::Settings& settings = Context::Get().settings;
      if (key != nullptr && settings.Get(key).empty()) settings.Set(key, entry.path().string());
    }
  });
}

void Describe(const std::vector<BorderTensor>& tensors, size_t index, const char* side,
              hetero_tensor* tensor) {
  HETERO_CHECK(index < tensors.size(), ValueError)
      << side << " " << index << ": the model has " << tensors.size();
  const BorderTensor& one = tensors[index];
  *tensor = {one.name.c_str(), one.dtype_name.c_str(), one.shape.data(), one.shape.size(),
             one.bytes};
}

void NotNull(const void* pointer, const char* name) {
  HETERO_CHECK(pointer != nullptr, ValueError) << name << " is NULL";
}

}  // namespace

struct hetero_model {
  explicit hetero_model(const char* path) : model(path) {}
  Model model;
};

extern "C" {

const char* hetero_last_error(void) { return last_error.c_str(); }

hetero_status hetero_set(const char* key, const char* value) {
  return Guarded([&] {
    NotNull(key, "key");
    NotNull(value, "value");
    hetero_tvm::runtime::Imported("hetero_tvm.setting_set")(ffi::String(key), ffi::String(value));
  });
}

hetero_status hetero_model_load(const char* path, hetero_model** model) {
  return Guarded([&] {
    NotNull(static_cast<const void*>(model), "model");
    *model = nullptr;
    NotNull(path, "path");
    UseNeighbours();
    *model = new hetero_model(path);
  });
}

void hetero_model_free(hetero_model* model) { delete model; }

hetero_status hetero_model_set_length(hetero_model* model, int64_t length) {
  return Guarded([&] {
    NotNull(model, "model");
    model->model.SetLength(length);
  });
}

size_t hetero_model_input_count(const hetero_model* model) {
  return model == nullptr ? 0 : model->model.program().inputs.size();
}

size_t hetero_model_output_count(const hetero_model* model) {
  return model == nullptr ? 0 : model->model.program().outputs.size();
}

hetero_status hetero_model_input(hetero_model* model, size_t index, hetero_tensor* tensor) {
  return Guarded([&] {
    NotNull(model, "model");
    NotNull(tensor, "tensor");
    Describe(model->model.program().inputs, index, "input", tensor);
  });
}

hetero_status hetero_model_output(hetero_model* model, size_t index, hetero_tensor* tensor) {
  return Guarded([&] {
    NotNull(model, "model");
    NotNull(tensor, "tensor");
    Describe(model->model.program().outputs, index, "output", tensor);
  });
}

hetero_status hetero_model_set_input(hetero_model* model, size_t index, const void* data,
                                     size_t bytes) {
  return Guarded([&] {
    NotNull(model, "model");
    NotNull(data, "data");
    model->model.SetInput(index, data, bytes);
  });
}

hetero_status hetero_model_run(hetero_model* model) {
  return Guarded([&] {
    NotNull(model, "model");
    model->model.Run();
  });
}

hetero_status hetero_model_get_output(hetero_model* model, size_t index, void* data, size_t bytes) {
  return Guarded([&] {
    NotNull(model, "model");
    NotNull(data, "data");
    model->model.GetOutput(index, data, bytes);
  });
}

}  // extern "C"
