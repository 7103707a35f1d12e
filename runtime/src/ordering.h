/*!
 * \file ordering.h
 * \brief Who waits for whom: what compiled code says with `hetero_tvm.wait`.
 */
#ifndef HETERO_TVM_RUNTIME_ORDERING_H_
#define HETERO_TVM_RUNTIME_ORDERING_H_

#include <atomic>
#include <cstdint>

#include "counters.h"
#include "npu/worker.h"
#include "opencl/device_api.h"
#include "trace.h"

namespace hetero_tvm::runtime {

/*! \brief The order between the GPU's queue, the NPU's worker and the host. Thread-safe. */
class Ordering {
 public:
  Ordering(opencl::DeviceApi& gpu, npu::Worker& npu, Counters& counters, Trace& trace)
      : gpu_(gpu), npu_(npu), counters_(counters), trace_(trace) {}

  /*!
   * \brief What `waiter` begins after this call must see what `on` was given before it.
   *
   * Devices are 0 cpu, 1 gpu, 2 npu. The host is blocked when it is the waiter, and when the GPU
   * waits for the NPU; the NPU waits for the GPU on its own. Throws ValueError for other devices.
   *
   * \param behind Of a wait for the NPU: its last jobs so far, that need not be done. Jobs of other
   * threads in between make the wait longer, never shorter.
   */
  void Wait(int64_t waiter, int64_t on, int64_t behind = 0);

  /*! \brief Everything is done and the host may read everything. */
  void WaitForAll();

  /*!
   * \brief After a failure: nothing that was given out before is still to come, not even an error.
   *
   * Throws nothing: whoever calls it has an error to tell.
   */
  void Settle();

  /*! \brief The GPU work that jobs submitted from now on need done. */
  uint64_t gpu_ticket() const { return gpu_ticket_.load(std::memory_order_acquire); }

 private:
  opencl::DeviceApi& gpu_;
  npu::Worker& npu_;
  Counters& counters_;
  Trace& trace_;
  // Of all threads together: the worker keeps jobs in order, so one thread's wait delays another
  // thread's job by no more than the first thread's own job would.
  std::atomic<uint64_t> gpu_ticket_{0};
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_ORDERING_H_
