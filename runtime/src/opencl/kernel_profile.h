/*!
 * \file opencl/kernel_profile.h
 * \brief When kernels ran, as the driver timed them, on the host's clock.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_KERNEL_PROFILE_H_
#define HETERO_TVM_RUNTIME_OPENCL_KERNEL_PROFILE_H_

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include "../trace.h"
#include "cl_api.h"

namespace hetero_tvm::runtime::opencl {

/*!
 * \brief The events of kernels in one queue that was made with profiling. Not thread-safe.
 *
 * The device's clock is read between two looks at the host's, at the beginning and at the end; what
 * lies between is mapped on the straight line through both.
 */
class KernelProfile {
 public:
  /*! \brief Requires: the queue is empty. */
  KernelProfile(const ClApi& api, cl_device_id device, cl_command_queue queue);

  /*! \brief Take over the event of a launch. */
  void Add(cl_event event, const std::string& name, int64_t call);

  /*! \brief Every kernel that is over, on the host's clock. Requires: the queue is empty. */
  std::vector<TraceEvent> Finish();

  /*! \brief Kernels whose times are lost: there were too many, or the driver did not say them. */
  int64_t lost() const { return lost_; }

 private:
  // An event costs the driver memory: its times are read before there are too many.
  static constexpr size_t kMostPending = 4096;
  static constexpr size_t kMostKernels = size_t{1} << 17U;

  struct Pending {
    ClHandle<cl_event> event;
    std::string name;
    int64_t call;
  };
  struct Instant {
    int64_t host_ns = 0;
    int64_t device_ns = 0;
  };

  Instant ReadClocks() const;
  bool ReadTimer(Instant* instant, int64_t* width_ns) const;
  bool ReadMarker(Instant* instant, int64_t* width_ns) const;
  void ReadTimes(bool all);

  const ClApi& api_;
  const cl_device_id device_;
  const cl_command_queue queue_;
  std::deque<Pending> pending_;
  std::vector<TraceEvent> kernels_;  // on the device's clock
  int64_t lost_ = 0;
  Instant begin_;
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_KERNEL_PROFILE_H_
