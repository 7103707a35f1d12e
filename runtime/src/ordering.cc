/*!
 * \file ordering.cc
 * \brief The four waits that mean something.
 */
#include "ordering.h"

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

enum Device : int64_t { kCpu = 0, kGpu = 1, kNpu = 2 };

}  // namespace

void Ordering::Wait(int64_t waiter, int64_t on, int64_t behind) {
  HETERO_CHECK(behind >= 0, ValueError) << "wait(.., " << behind << "): a number of later jobs";
  HETERO_CHECK(waiter >= kCpu && waiter <= kNpu && on >= kCpu && on <= kNpu, ValueError)
      << "wait(" << waiter << ", " << on << "): devices are 0 cpu, 1 gpu, 2 npu";
  if (waiter == on || on == kCpu) return;  // queues keep their order; the host waits by itself
  if (on == kNpu) {
    (waiter == kCpu ? counters_.wait_cpu_on_npu : counters_.wait_gpu_on_npu).Add();
    const TraceSpan span(trace_, TraceKind::kWait, "wait", WaitDetail(waiter, on));
    // The GPU waits by the host's waiting: kernels are not launched before the NPU is done.
    npu_.WaitForAllBut(static_cast<uint64_t>(behind));
  } else if (waiter == kCpu) {
    counters_.wait_cpu_on_gpu.Add();
    const TraceSpan span(trace_, TraceKind::kWait, "wait", WaitDetail(waiter, on));
    gpu_.WaitIfOpen();
  } else {
    counters_.wait_npu_on_gpu.Add();
    const uint64_t ticket = gpu_.FenceIfOpen();
    uint64_t known = gpu_ticket_.load(std::memory_order_relaxed);
    while (known < ticket && !gpu_ticket_.compare_exchange_weak(known, ticket)) {
    }
  }
}

void Ordering::WaitForAll() {
  gpu_.WaitIfOpen();
  npu_.Wait();
}

void Ordering::Settle() {
  // Twice: a job that waits for the GPU may be told of the GPU's failure, and fail with it.
  for (int round = 0; round < 2; ++round) {
    try {
      npu_.Wait();
    } catch (const tvm::ffi::Error&) {  // NOLINT(bugprone-empty-catch): who asks knows already
    }
    try {
      gpu_.WaitIfOpen();
    } catch (const tvm::ffi::Error&) {  // NOLINT(bugprone-empty-catch)
    }
  }
}

}  // namespace hetero_tvm::runtime
