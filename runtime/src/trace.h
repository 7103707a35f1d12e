/*!
 * \file trace.h
 * \brief What happened when, on one clock: kernels, regions, waits, copies, submissions, calls.
 */
#ifndef HETERO_TVM_RUNTIME_TRACE_H_
#define HETERO_TVM_RUNTIME_TRACE_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/function.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "timeline.h"

namespace hetero_tvm::runtime {

/*! \brief What an event is; TraceKindName() says it to Python. */
enum class TraceKind : uint8_t {
  kFunction,  // a function of the virtual machine, until it has returned
  kCall,      // one call of it: a kernel's host function, a CPU kernel, an NPU region
  kSubmit,    // the host gives work to a device
  kKernel,    // the GPU works
  kRegion,    // the NPU works
  kWait,      // one device waits for another; `detail` is WaitDetail()
  kCopy,      // the host copies; `detail` is the number of bytes
};

const char* TraceKindName(TraceKind kind);

/*! \brief `detail` of a wait: devices are 0 cpu, 1 gpu, 2 npu. */
constexpr int64_t WaitDetail(int64_t waiter, int64_t on) { return waiter * 4 + on; }

/*! \brief One thing that happened, in nanoseconds of the host's steady clock. */
struct TraceEvent {
  TraceKind kind = TraceKind::kCall;
  std::string name;
  int64_t start_ns = 0;
  int64_t end_ns = 0;
  int64_t call = -1;  // the virtual machine's call that it belongs to, -1: none is known
  int64_t detail = 0;
};

inline int64_t HostNanoseconds(Clock::time_point time = Clock::now()) {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(time.time_since_epoch()).count();
}

/*!
 * \brief Events of all threads. One to a process; thread-safe.
 *
 * Every thread writes into a ring of its own: the newest events stay, and what was overwritten is
 * counted. While it is off, an event costs one relaxed load.
 */
class Trace {
 public:
  bool IsOn() const { return on_.load(std::memory_order_relaxed); }

  /*! \brief Forget what was recorded, and record from now on. */
  void Start(size_t events_per_thread);

  void Stop() { on_.store(false, std::memory_order_relaxed); }

  /*! \brief Into this thread's ring; nothing when tracing is off. */
  void Record(TraceEvent event);

  /*! \brief What the GPU's driver timed, known only after the fact; counted as a thread. */
  void AddFromGpu(std::vector<TraceEvent> events, int64_t lost);

  /*!
   * \brief Everything recorded since Start(): rows of kind, thread, name, start, end, call, detail,
   * then one row that says how many were overwritten. Threads are numbered from 0; -1 is the GPU.
   */
  tvm::ffi::Array<tvm::ffi::Any> Take();

  /*!
   * \brief The instrument of a virtual machine: called before and after each of its calls.
   *
   * Numbers the calls of kernels and regions, so that what they submit can be told apart.
   */
  void Instrument(tvm::ffi::PackedArgs args, tvm::ffi::Any* rv);

  /*! \brief The call that this thread is in, -1 in none. */
  static int64_t CurrentCall();

 private:
  struct Ring;

  Ring& OfThisThread();

  std::atomic<bool> on_{false};
  std::atomic<int64_t> next_call_{0};
  std::mutex mutex_;  // guards what follows, but not what is in a ring; taken before a ring's own
  size_t events_per_thread_ = 0;
  std::vector<std::shared_ptr<Ring>> rings_;
  std::vector<TraceEvent> from_gpu_;
  int64_t lost_from_gpu_ = 0;
};

/*! \brief Records the time between its making and its end. */
class TraceSpan {
 public:
  /*! \param name Outlives the span. */
  TraceSpan(Trace& trace, TraceKind kind, std::string_view name, int64_t detail = 0)
      : TraceSpan(trace, kind, name, detail, trace.IsOn() ? Trace::CurrentCall() : -1) {}
  TraceSpan(Trace& trace, TraceKind kind, std::string_view name, int64_t detail, int64_t call)
      : trace_(trace.IsOn() ? &trace : nullptr),
        kind_(kind),
        name_(name),
        detail_(detail),
        call_(call),
        start_ns_(trace_ == nullptr ? 0 : HostNanoseconds()) {}
  TraceSpan(const TraceSpan&) = delete;
  TraceSpan& operator=(const TraceSpan&) = delete;
  ~TraceSpan() {
    if (trace_ == nullptr) return;
    trace_->Record({kind_, std::string(name_), start_ns_, HostNanoseconds(), call_, detail_});
  }

 private:
  Trace* const trace_;
  const TraceKind kind_;
  const std::string_view name_;
  const int64_t detail_;
  const int64_t call_;
  const int64_t start_ns_;
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_TRACE_H_
