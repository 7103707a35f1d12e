/*!
 * \file c_api/language_model.h
 * \brief A loaded language model: its steps, one cache, tokens in, logits out.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_LANGUAGE_MODEL_H_
#define HETERO_TVM_RUNTIME_C_API_LANGUAGE_MODEL_H_

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/extra/module.h>
#include <tvm/ffi/function.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "machine.h"
#include "manifest.h"

namespace hetero_tvm::runtime {

/*! \brief Some tokens for one step: `rows` is the step's size, `past` how many came before. */
struct Chunk {
  int64_t rows;
  int64_t past;
  std::vector<int64_t> tokens;
};

/*! \brief The cache of one sequence. What of it is filled is the caller's to know. Not
 *  thread-safe. */
class LanguageModel {
 public:
  /*! \brief Check and load. Throws ValueError, EnvironmentProblem or DeviceFailure. */
  explicit LanguageModel(const std::string& path);

  const LlmDescription& description() const { return description_; }

  /*! \brief The step for `count` tokens: the smallest that holds them, else the largest. */
  int64_t RowsFor(size_t count) const;

  /*! \brief Write the chunk's keys and values; returns when all devices are done. */
  void Step(const Chunk& chunk);

  /*! \brief What follows the last step's last token: a value for each token that there is. */
  std::vector<float> Logits() const;

  /*! \brief What each step is called in the artefact. */
  const std::string& FunctionOf(int64_t rows) const;

  const tvm::ffi::Module& machine() const { return machine_.functions; }

 private:
  struct StepOf {
    std::string name;
    tvm::ffi::Function function;
    std::vector<tvm::ffi::Tensor> arguments;
    tvm::ffi::Tensor ids;
  };
  const StepOf& Find(int64_t rows) const;

  Manifest manifest_;  // constant once made
  const LlmDescription description_;
  const Machine machine_;
  std::map<int64_t, StepOf> steps_;  // by their rows
  tvm::ffi::Tensor past_;
  tvm::ffi::Tensor last_;
  tvm::ffi::Tensor logits_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_LANGUAGE_MODEL_H_
