/*!
 * \file timeline.h
 * \brief How far a device has come, how long things take, and how a thread waits for them.
 */
#ifndef HETERO_TVM_RUNTIME_TIMELINE_H_
#define HETERO_TVM_RUNTIME_TIMELINE_H_

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>

namespace hetero_tvm::runtime {

using Clock = std::chrono::steady_clock;

/*!
 * \brief How long something that happens again and again takes at least, lately. Thread-safe.
 *
 * An exponential average that follows shorter durations at once.
 */
class Prediction {
 public:
  /*! \brief Zero when nothing is known. */
  Clock::duration Get() const { return Clock::duration(ticks_.load(std::memory_order_relaxed)); }

  /*! \brief Take one more duration into account. */
  void Learn(Clock::duration took);

 private:
  std::atomic<Clock::rep> ticks_{0};
};

/*!
 * \brief Asks a flag for a bounded time, without keeping a core from whoever has to set it.
 *
 * First sleeps until shortly before `expected` is over (measured from now; zero when unknown),
 * where that is longer than sleeping is exact.
 *
 * \param done Says whether it has happened; asked often, from this thread only.
 * \return Whether it happened. If not, it is time to wait in a way that costs no processor time.
 */
template <typename Done>  // bool()
bool SleepThenPoll(Clock::duration expected, const Done& done);

/*!
 * \brief A counter that only grows: work gets a ticket when it is submitted, and is done when the
 * counter has reached its ticket. Thread-safe.
 *
 * Requires: work is completed in the order of its tickets.
 */
class Timeline {
 public:
  /*!
   * \brief The ticket of work submitted now.
   * \param expected How long it will take once what was submitted before is done; zero: unknown.
   */
  uint64_t Submit(Clock::duration expected);

  /*!
   * \brief The work of `ticket` is over.
   * \param failure What went wrong, if anything. The first failure is kept for one waiter.
   */
  void Complete(uint64_t ticket, std::exception_ptr failure = nullptr);

  /*! \brief The last ticket given out; 0 when there was none. */
  uint64_t Submitted() const { return submitted_.load(std::memory_order_acquire); }

  bool IsDone(uint64_t ticket) const {
    return completed_.load(std::memory_order_acquire) >= ticket;
  }

  /*! \brief When the oldest work that is not done could begin. Requires: there is such work. */
  Clock::time_point Started() const;

  /*!
   * \brief Until `ticket` is done.
   *
   * Throws the failure that nobody was told of yet, if work up to now failed; the next waiter does
   * not see it again. Costs two loads when there is nothing to wait for or to tell.
   *
   * \param poll Look at the counter when it should be time, before waiting to be woken.
   */
  void Wait(uint64_t ticket, bool poll = true);

 private:
  Clock::duration ExpectedLocked(uint64_t ticket) const;
  void ThrowFailure();

  std::atomic<uint64_t> submitted_{0};
  std::atomic<uint64_t> completed_{0};  // changes under mutex_, so that no notification is lost
  std::atomic<bool> has_failure_{false};
  mutable std::mutex mutex_;  // guards what follows; never held while anything runs
  std::condition_variable changed_;
  std::deque<Clock::duration> pending_;  // of submitted work that is not done, oldest first
  Clock::time_point started_;            // of the oldest pending work
  std::exception_ptr failure_;           // not yet thrown at anybody
};

namespace waiting {

// Timer slack and a wake-up on Linux, and what usleep costs on a Snapdragon: 80 to 100 us.
constexpr std::chrono::microseconds kSleepError{100};
// A sleep that would be shorter is not worth being late for.
constexpr std::chrono::microseconds kShortestSleep{100};
// Polling that lasts longer than this finds nothing that blocking would not find soon enough.
constexpr std::chrono::microseconds kLongestPoll{500};
constexpr int kPollsPerYield = 8;

/*! \brief How much earlier than expected to wake up. */
inline Clock::duration Margin(Clock::duration expected) {
  const Clock::duration part = expected / 8;
  return part > kSleepError ? part : Clock::duration(kSleepError);
}

/*!
 * \brief Whether this process has a core for a thread that polls, beside the host's thread and two
 * devices that may be this processor. Else polling takes the core from whom it waits for.
 */
bool CoresToSpare();

/*! \brief Tell the processor that this is a loop around a flag. */
void Pause();

/*! \brief Let others have the processor if they want it. */
void Yield();

void SleepFor(Clock::duration time);

}  // namespace waiting

template <typename Done>
bool SleepThenPoll(Clock::duration expected, const Done& done) {
  if (done()) return true;
  if (!waiting::CoresToSpare()) return false;
  const Clock::duration margin = waiting::Margin(expected);
  if (expected > margin + waiting::kShortestSleep) waiting::SleepFor(expected - margin);
  const Clock::duration patience = 2 * margin;
  const Clock::time_point end =
      Clock::now() +
      (patience < waiting::kLongestPoll ? patience : Clock::duration(waiting::kLongestPoll));
  do {
    for (int i = 0; i < waiting::kPollsPerYield; ++i) {
      if (done()) return true;
      waiting::Pause();
    }
    waiting::Yield();
  } while (Clock::now() < end);
  return done();
}

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_TIMELINE_H_
