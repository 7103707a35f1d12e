/*!
 * \file npu/worker.cc
 * \brief The worker's thread: its start, its loop, its end.
 */
#include "worker.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <utility>

#include "../check.h"

namespace hetero_tvm::runtime::npu {

bool Worker::Forked() const {
  const pid_t process = process_.load(std::memory_order_relaxed);
  return process != 0 && process != getpid();
}

void Worker::StartLocked() {
  if (thread_.joinable()) return;
  process_.store(getpid(), std::memory_order_relaxed);
  thread_ = std::thread([this, generation = generation_] { Work(generation); });
}

void Worker::Abandon(std::exception_ptr failure) {
  const std::scoped_lock lock(mutex_);
  thread_.detach();
  ++generation_;
  if (stopping_) {
    has_ended_ = true;
    ended_.notify_all();
  } else {
    StartLocked();
  }
  timeline_.Complete(running_, std::move(failure));
}

uint64_t Worker::Submit(std::unique_ptr<Job> job) {
  HETERO_CHECK(!Forked(), DeviceFailure)
      << "the NPU was in use before this process was forked; start processes with the method "
         "'spawn'";
  uint64_t ticket = 0;
  {
    const std::scoped_lock lock(mutex_);
    HETERO_CHECK(!stopping_, DeviceFailure) << "the NPU cannot be used while the process ends";
    StartLocked();
    ticket = timeline_.Submit(job->Expected().Get());
    queue_.push_back({ticket, std::move(job)});
  }
  submitted_.notify_one();
  return ticket;
}

void Worker::Wait(uint64_t ticket) {
  if (!timeline_.IsDone(ticket)) {
    HETERO_CHECK(!Forked(), DeviceFailure)
        << "this process was forked while the NPU was busy; wait for it before forking";
    counters_.npu_waits.Add();
  }
  timeline_.Wait(ticket, IsFast());
}

void Worker::Work(uint64_t generation) {
  // Naps are short here: the default would make each of them last 50 us longer.
  prctl(PR_SET_TIMERSLACK, 1000);
  uint64_t last = 0;
  while (true) {
    // The next job often follows at once, and waking up costs more than a short look around.
    if (IsFast()) SleepThenPoll({}, [&] { return timeline_.Submitted() != last; });
    std::unique_lock lock(mutex_);
    submitted_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) {
      has_ended_ = true;
      ended_.notify_all();
      return;
    }
    Entry entry = std::move(queue_.front());
    queue_.pop_front();
    running_ = entry.ticket;
    lock.unlock();
    std::exception_ptr failure;
    try {
      entry.job->Run();
      entry.job->Expected().Learn(Clock::now() - timeline_.Started());
    } catch (...) {
      failure = std::current_exception();
    }
    entry.job.reset();  // first: whoever waits may rely on nothing being held any more
    last = entry.ticket;
    lock.lock();
    if (generation_ != generation) return;  // given up, and answered for
    timeline_.Complete(last, std::move(failure));
  }
}

void Worker::Stop() {
  if (Forked()) return;  // the thread is not here
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  submitted_.notify_all();
  std::unique_lock lock(mutex_);
  if (!thread_.joinable()) return;
  ended_.wait(lock, [this] { return has_ended_; });
  lock.unlock();
  if (thread_.joinable()) thread_.join();
}

}  // namespace hetero_tvm::runtime::npu
