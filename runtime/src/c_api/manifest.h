/*!
 * \file c_api/manifest.h
 * \brief What stands at the end of an artefact, as hetero_tvm/bundle.py wrote it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_MANIFEST_H_
#define HETERO_TVM_RUNTIME_C_API_MANIFEST_H_

#include <tvm/ffi/dtype.h>

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

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
};

/*! \brief The programs of an artefact that fits this machine; the last one is the longest. */
struct Manifest {
  std::vector<Program> programs;

  /*!
   * \brief Check every byte of the file at `path`, and that it is for this machine.
   *
   * Throws ValueError saying what is wrong and what to do. Loads none of its code.
   */
  static Manifest Read(const std::string& path);
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
