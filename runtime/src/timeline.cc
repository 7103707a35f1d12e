/*!
 * \file timeline.cc
 * \brief Tickets, failures, and the slow end of waiting.
 */
#include "timeline.h"

#include <sched.h>

#include <numeric>
#include <thread>
#include <utility>

namespace hetero_tvm::runtime {

void Prediction::Learn(Clock::duration took) {
  // Two threads that learn at once lose one of two values, and nothing else.
  const Clock::duration known = Get();
  // Down at once and up slowly: who expects too little only polls, or is woken a little later; who
  // expects too much sleeps while the other device waits.
  const bool is_shortest = known.count() == 0 || took < known;
  const Clock::duration next = is_shortest ? took : known + (took - known) / 16;
  ticks_.store(next.count(), std::memory_order_relaxed);
}

namespace waiting {

bool CoresToSpare() {
  static const bool spare = [] {
    cpu_set_t usable;
    CPU_ZERO(&usable);
    constexpr int kThreads = 4;
    return sched_getaffinity(0, sizeof(usable), &usable) != 0 || CPU_COUNT(&usable) >= kThreads;
  }();
  return spare;
}

void Pause() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

void Yield() { sched_yield(); }

void SleepFor(Clock::duration time) { std::this_thread::sleep_for(time); }

}  // namespace waiting

uint64_t Timeline::Submit(Clock::duration expected) {
  const std::scoped_lock lock(mutex_);
  if (pending_.empty()) started_ = Clock::now();
  pending_.push_back(expected);
  const uint64_t ticket = submitted_.load(std::memory_order_relaxed) + 1;
  submitted_.store(ticket, std::memory_order_release);
  return ticket;
}

void Timeline::Complete(uint64_t ticket, std::exception_ptr failure) {
  {
    const std::scoped_lock lock(mutex_);
    pending_.pop_front();
    started_ = Clock::now();
    if (failure != nullptr && failure_ == nullptr) {
      failure_ = std::move(failure);
      has_failure_.store(true, std::memory_order_relaxed);
    }
    completed_.store(ticket, std::memory_order_release);
  }
  changed_.notify_all();
}

Clock::time_point Timeline::Started() const {
  const std::scoped_lock lock(mutex_);
  return started_;
}

Clock::duration Timeline::ExpectedLocked(uint64_t ticket) const {
  const uint64_t completed = completed_.load(std::memory_order_relaxed);
  if (ticket <= completed) return {};
  const auto count = static_cast<std::ptrdiff_t>(ticket - completed);
  const Clock::duration total =
      std::accumulate(pending_.begin(), pending_.begin() + count, Clock::duration());
  const Clock::duration passed = Clock::now() - started_;
  return total > passed ? total - passed : Clock::duration();
}

void Timeline::Wait(uint64_t ticket, bool poll) {
  if (!IsDone(ticket)) {
    Clock::duration expected{};
    {
      const std::scoped_lock lock(mutex_);
      expected = ExpectedLocked(ticket);
    }
    if (!poll || !SleepThenPoll(expected, [&] { return IsDone(ticket); })) {
      std::unique_lock lock(mutex_);
      changed_.wait(lock, [&] { return IsDone(ticket); });
    }
  }
  if (has_failure_.load(std::memory_order_acquire)) ThrowFailure();
}

void Timeline::ThrowFailure() {
  std::exception_ptr failure;
  {
    const std::scoped_lock lock(mutex_);
    failure = std::exchange(failure_, nullptr);
    has_failure_.store(false, std::memory_order_relaxed);
  }
  if (failure != nullptr) std::rethrow_exception(failure);
}

}  // namespace hetero_tvm::runtime
