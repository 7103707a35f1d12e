/*!
 * \file npu/null_session.h
 * \brief An NPU without hardware and without libraries: settable latency and failures.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_NULL_SESSION_H_
#define HETERO_TVM_RUNTIME_NPU_NULL_SESSION_H_

#include <chrono>
#include <vector>

#include "region_session.h"

namespace hetero_tvm::runtime::npu {

/*!
 * \brief Provider "null": copies input i to output i after the region's option `latency_us`, or
 * fails then when it has the option `fail`. With the option `gate` it waits until the first four
 * bytes of input 0 are not zero. With the option `stamp`
 * the first 16 bytes of output 0 are then the steady clock's nanoseconds at its beginning and its
 * end. Looks at no model.
 *
 * For tests of order and failure, which need a device that is slow when they say so.
 */
class NullRegionSession : public RegionSession {
 public:
  /*! \brief Throws ValueError when an option is wrong or inputs and outputs do not pair up. */
  explicit NullRegionSession(const Region& region);

  void Prepare() final {}
  void Run(const std::vector<const DLTensor*>& tensors) final;

 private:
  std::chrono::microseconds latency_{0};
  bool fails_ = false;
  bool has_gate_ = false;
  bool stamps_ = false;
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_NULL_SESSION_H_
