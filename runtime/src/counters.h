/*!
 * \file counters.h
 * \brief What the runtime did, counted; read and reset from Python.
 */
#ifndef HETERO_TVM_RUNTIME_COUNTERS_H_
#define HETERO_TVM_RUNTIME_COUNTERS_H_

#include <atomic>
#include <cstdint>

namespace hetero_tvm::runtime {

/*! \brief A statistic: relaxed, because no one synchronises on it. */
class Counter {
 public:
  void Add(int64_t amount = 1) { value_.fetch_add(amount, std::memory_order_relaxed); }
  int64_t Value() const { return value_.load(std::memory_order_relaxed); }
  void Reset() { value_.store(0, std::memory_order_relaxed); }

 private:
  std::atomic<int64_t> value_{0};
};

/*! \brief Every counter with its public name, in the order in which they are shown. */
#define HETERO_COUNTERS(X)                                               \
  X(kernel_launches) /* GPU kernels put into the queue */                \
  X(image_arguments) /* of those, arguments read as images */            \
  X(gpu_waits)       /* times a thread waited for the GPU to catch up */ \
  X(gpu_gap_us)      /* that the GPU was left to others on purpose */    \
  X(npu_waits)       /* times a thread waited for the NPU to catch up */ \
  X(wait_cpu_on_gpu) /* waits in compiled code: the host for the GPU */  \
  X(wait_cpu_on_npu) /* ... the host for the NPU */                      \
  X(wait_gpu_on_npu) /* ... the GPU for the NPU */                       \
  X(wait_npu_on_gpu) /* ... the NPU for the GPU */                       \
  X(copies)          /* copies from one tensor's memory to another's */  \
  X(bytes_copied)    /* bytes of those copies */                         \
  X(allocations)     /* device allocations */                            \
  X(bytes_allocated) /* bytes of those allocations */                    \
  X(npu_runs)        /* NPU regions run */                               \
  X(npu_sessions)    /* NPU sessions built */                            \
  X(npu_retries)     /* NPU work that failed and was tried again */      \
  X(npu_moved)       /* NPU regions whose work moved to the CPU */       \
  X(npu_hangs)       /* NPU runs that never came back */                 \
  X(cache_hits)      /* OpenCL programs taken from the disk cache */     \
  X(cache_misses)    /* OpenCL programs compiled from source */          \
  X(cache_corrupt)   /* cache entries that were damaged and thrown away */

/*! \brief All counters of the process; part of Context. */
struct Counters {
#define HETERO_DECLARE_COUNTER(name) Counter name;
  HETERO_COUNTERS(HETERO_DECLARE_COUNTER)
#undef HETERO_DECLARE_COUNTER
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_COUNTERS_H_
