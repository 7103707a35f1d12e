/*!
 * \file c_api/expected_values.h
 * \brief What a tuned kernel gives on inputs that are drawn here again, as
 * hetero_tvm/expected_values.py wrote it into the artefact.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_EXPECTED_VALUES_H_
#define HETERO_TVM_RUNTIME_C_API_EXPECTED_VALUES_H_

#include <tvm/ffi/extra/json.h>
#include <tvm/ffi/extra/module.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace hetero_tvm::runtime {

/*! \brief A parameter of a kernel: a dense tensor. */
struct KernelParameter {
  DLDataType dtype;
  std::vector<int64_t> shape;
  size_t bytes;
};

/*! \brief The result that one run leaves in one parameter. */
struct ExpectedResult {
  size_t place;
  double tolerance;  // relative to the largest
  double largest;
  std::vector<double> values;  // at the positions that seed and place say
};

/*! \brief A parameter whose elements all have one value. */
struct FixedParameter {
  size_t place;
  int64_t value;
};

/*! \brief One run of a kernel. */
struct ExpectedRun {
  uint32_t seed;
  bool edge;
  std::vector<FixedParameter> fixed;
  std::vector<ExpectedResult> results;
};

/*! \brief All that a manifest says of a kernel's values. */
struct ExpectedValues {
  std::vector<KernelParameter> parameters;
  std::vector<ExpectedRun> runs;

  /*! \brief Read it; throws an error of TVM's or ValueError where it is damaged. */
  static ExpectedValues Read(const tvm::ffi::json::Object& object);

  /*!
   * \brief Run the kernel `name` of `code` on the OpenCL device; why it is wrong, empty if right.
   *
   * Throws what the device throws where it cannot be run at all.
   */
  std::string Check(const tvm::ffi::Module& code, const std::string& name) const;
};

/*! \brief The bytes of `count` elements of one parameter; see expected_values.py. */
std::vector<uint8_t> DrawnBytes(uint32_t seed, size_t place, uint64_t count, DLDataType dtype,
                                bool edge);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_EXPECTED_VALUES_H_
