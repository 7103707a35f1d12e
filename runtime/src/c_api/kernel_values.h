/*!
 * \file c_api/kernel_values.h
 * \brief What a tuned kernel has to give on inputs from seeds, as an artefact says it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_KERNEL_VALUES_H_
#define HETERO_TVM_RUNTIME_C_API_KERNEL_VALUES_H_

#include <tvm/ffi/dtype.h>
#include <tvm/ffi/extra/json.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace hetero_tvm::runtime {

struct KernelParameter {
  DLDataType dtype;
  std::vector<int64_t> shape;
  size_t elements;
  size_t bytes;
};

/*! \brief What one parameter has to hold at `KernelPositions`. */
struct KernelResult {
  double scale;        // the largest number of all of it, which errors are relative to
  std::string values;  // float16 as float32, all others in their own type
};

struct KernelRun {
  uint64_t seed;
  bool edge;                              // zeros, large, small and equal numbers among the inputs
  std::map<size_t, int64_t> given;        // integer parameters full of one number, by place
  std::map<size_t, KernelResult> wanted;  // by place; all else is an input
};

/*! \brief Everything that a kernel can be checked with; no runs: it cannot be. */
struct KernelProof {
  std::vector<KernelParameter> parameters;
  std::vector<KernelRun> runs;

  /*! \brief Throws ValueError or TypeError for what no kernel has. */
  static KernelProof Read(const tvm::ffi::json::Object& object);
};

/*! \brief Bytes of parameter `place` before the kernel runs: an input, or what it overwrites. */
std::string KernelMemory(const KernelProof& proof, const KernelRun& run, size_t place);

/*!
 * \brief Why `got`, the bytes of parameter `place` afterwards, is wrong; empty where it is right.
 */
std::string KernelError(const KernelProof& proof, const KernelRun& run, size_t place,
                        const std::string& got);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_KERNEL_VALUES_H_
