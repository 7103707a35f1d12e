/*!
 * \file c_api/manifest.h
 * \brief What stands at the end of an artefact, as hetero_tvm/bundle.py wrote it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_MANIFEST_H_
#define HETERO_TVM_RUNTIME_C_API_MANIFEST_H_

#include <tvm/ffi/dtype.h>

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "tuned_kernels.h"

namespace hetero_tvm::runtime {

/*! \brief One input or output. */
struct BorderTensor {
  std::string name;
  std::string dtype_name;
  DLDataType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t>
      axes;  // the permutation that shows its memory in its shape; empty: it lies so
  size_t bytes;
};

/*! \brief One function of an artefact. */
struct Program {
  int64_t length;  // 0: it has only one
  std::string function;
  std::vector<BorderTensor> inputs;
  std::vector<BorderTensor> outputs;
  std::vector<size_t> weights;  // what it takes behind its inputs, by number
};

/*! \brief A tensor that lies in the artefact behind its code. */
struct StoredWeight {
  BorderTensor tensor;
  uint64_t place;  // in the weights
};

/*! \brief What a sequence needs to know of a language model; its steps are the programs. */
struct LlmDescription {
  std::vector<BorderTensor> caches;
  int64_t capacity;  // longest sequence, in tokens
  int64_t vocabulary;
  std::vector<int64_t> stop_tokens;  // any of them ends a text
};

/*! \brief The programs of an artefact that fits this machine; the last one is the longest. */
struct Manifest {
  std::vector<Program> programs;
  std::vector<StoredWeight> weights;
  uint64_t weights_offset = 0;  // of all of them, and what the NPU takes of them, in the file
  uint64_t weights_bytes = 0;
  std::optional<LlmDescription> llm;
  std::vector<TunedKernel> tuned;
  bool has_fallback = false;  // it carries its whole model for a CPU

  /*!
   * \brief Check every byte of the file at `path`, and that it is for this machine.
   *
   * Throws ValueError saying what is wrong and what to do. Loads none of its code.
   */
  static Manifest Read(const std::string& path);

  /*! \brief As Read, of what is one function; throws ValueError for a language model. */
  static Manifest ReadModel(const std::string& path);
};

/*! \brief A manifest, and what a signature is of. */
struct Sealed {
  Manifest manifest;
  std::string footer;
  std::string signature;  // empty: none
};

/*! \brief Everything of `Manifest::Read` but who signed it, from any stream of `size` bytes. */
Sealed ReadSealed(std::istream& file, uint64_t size);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_MANIFEST_H_
