/*!
 * \file c_api/model.h
 * \brief A loaded artefact: TVM's virtual machine, and tensors for its border.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_MODEL_H_
#define HETERO_TVM_RUNTIME_C_API_MODEL_H_

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <mutex>
#include <string>
#include <vector>

#include "machine.h"
#include "manifest.h"

namespace hetero_tvm::runtime {

/*! \brief What the C API calls a model. Thread-safe: each call waits for the one before. */
class Model {
 public:
  /*! \brief Check and load. Throws ValueError, EnvironmentProblem or DeviceFailure. */
  explicit Model(const std::string& path);

  void SetLength(int64_t length);
  const Program& program() const { return manifest_.programs[chosen_]; }
  void SetInput(size_t index, const void* data, size_t bytes);
  void Run();
  void GetOutput(size_t index, void* data, size_t bytes);

 private:
  void Choose(size_t program);

  std::mutex mutex_;   // guards everything below; held for the length of each call
  Manifest manifest_;  // constant once made
  const Machine machine_;
  size_t chosen_ = 0;
  tvm::ffi::Function main_;  // of the chosen program
  std::vector<tvm::ffi::Tensor> inputs_;
  std::vector<bool> is_set_;
  std::vector<tvm::ffi::Tensor> outputs_;  // empty before the first run
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_MODEL_H_
