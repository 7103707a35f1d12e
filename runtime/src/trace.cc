/*!
 * \file trace.cc
 * \brief Rings of events, one for each thread, and the virtual machine's instrument.
 */
#include "trace.h"

#include <tvm/ffi/string.h>

#include <algorithm>
#include <utility>

#include "check.h"

namespace hetero_tvm::runtime {
namespace {

namespace ffi = tvm::ffi;

/*! \brief The call of the virtual machine that a thread is in. */
struct CallInProgress {
  int64_t number = -1;
  int64_t start_ns = 0;
};

CallInProgress& ThisThreadsCall() {
  static thread_local CallInProgress call;
  return call;
}

/*! \brief Bookkeeping of the virtual machine and waits, which are no work of the model. */
bool IsWork(std::string_view symbol) {
  return symbol.rfind("vm.builtin.", 0) != 0 && symbol.rfind("hetero_tvm.", 0) != 0;
}

ffi::Any Row(const TraceEvent& event, int64_t thread) {
  return ffi::Array<ffi::Any>{ffi::String(TraceKindName(event.kind)),
                              thread,
                              ffi::String(event.name),
                              event.start_ns,
                              event.end_ns,
                              event.call,
                              event.detail};
}

}  // namespace

const char* TraceKindName(TraceKind kind) {
  constexpr const char* kNames[] = {"function", "call", "submit", "kernel",
                                    "region",   "wait", "copy"};
  return kNames[static_cast<size_t>(kind)];
}

/*! \brief The newest events of one thread. */
struct Trace::Ring {
  std::mutex mutex;  // guards all of it; only its thread and a reader ever want it
  std::vector<TraceEvent> events;
  size_t capacity = 0;
  int64_t written = 0;
};

void Trace::Start(size_t events_per_thread) {
  HETERO_CHECK(events_per_thread > 0, ValueError) << "a trace of 0 events";
  const std::scoped_lock lock(mutex_);
  events_per_thread_ = events_per_thread;
  // Nobody else holds the ring of a thread that has ended.
  rings_.erase(std::remove_if(rings_.begin(), rings_.end(),
                              [](const auto& ring) { return ring.use_count() == 1; }),
               rings_.end());
  for (const auto& ring : rings_) {
    const std::scoped_lock ring_lock(ring->mutex);
    ring->events.clear();
    ring->capacity = events_per_thread;
    ring->written = 0;
  }
  from_gpu_.clear();
  lost_from_gpu_ = 0;
  on_.store(true, std::memory_order_relaxed);
}

Trace::Ring& Trace::OfThisThread() {
  static thread_local std::shared_ptr<Ring> ring;
  if (ring == nullptr) {
    auto made = std::make_shared<Ring>();
    const std::scoped_lock lock(mutex_);
    made->capacity = events_per_thread_;
    rings_.push_back(made);
    ring = std::move(made);
  }
  return *ring;
}

void Trace::Record(TraceEvent event) {
  if (!IsOn()) return;
  Ring& ring = OfThisThread();
  const std::scoped_lock lock(ring.mutex);
  if (ring.events.size() < ring.capacity) {
    ring.events.push_back(std::move(event));
  } else {
    ring.events[static_cast<size_t>(ring.written) % ring.capacity] = std::move(event);
  }
  ++ring.written;
}

void Trace::AddFromGpu(std::vector<TraceEvent> events, int64_t lost) {
  const std::scoped_lock lock(mutex_);
  std::move(events.begin(), events.end(), std::back_inserter(from_gpu_));
  lost_from_gpu_ += lost;
}

ffi::Array<ffi::Any> Trace::Take() {
  const std::scoped_lock lock(mutex_);
  ffi::Array<ffi::Any> rows;
  int64_t lost = lost_from_gpu_;
  for (size_t thread = 0; thread < rings_.size(); ++thread) {
    Ring& ring = *rings_[thread];
    const std::scoped_lock ring_lock(ring.mutex);
    const size_t count = ring.events.size();
    for (size_t i = 0; i < count; ++i) {  // oldest first
      const size_t first = count < ring.capacity ? 0 : static_cast<size_t>(ring.written) % count;
      rows.push_back(Row(ring.events[(first + i) % count], static_cast<int64_t>(thread)));
    }
    lost += ring.written - static_cast<int64_t>(count);
  }
  for (const TraceEvent& event : from_gpu_) rows.push_back(Row(event, -1));
  rows.push_back(lost);
  return rows;
}

int64_t Trace::CurrentCall() { return ThisThreadsCall().number; }

void Trace::Instrument(ffi::PackedArgs args, ffi::Any* rv) {
  *rv = 0;  // go on as ever
  if (!IsOn()) return;
  HETERO_CHECK(args.size() >= 4, TypeError) << "an instrument takes function, name, before, result";
  const auto symbol = args[1].cast<ffi::String>();
  const std::string_view name(symbol.data(), symbol.size());
  if (!IsWork(name)) return;
  CallInProgress& call = ThisThreadsCall();
  if (args[2].cast<bool>()) {
    call = {next_call_.fetch_add(1, std::memory_order_relaxed), HostNanoseconds()};
    return;
  }
  Record({TraceKind::kCall, std::string(name), call.start_ns, HostNanoseconds(), call.number, 0});
  call = {};
}

}  // namespace hetero_tvm::runtime
