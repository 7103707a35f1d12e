/*!
 * \file npu/worker.h
 * \brief The thread that runs NPU regions, one after the other.
 */
#ifndef HETERO_TVM_RUNTIME_NPU_WORKER_H_
#define HETERO_TVM_RUNTIME_NPU_WORKER_H_

#include <sys/types.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <thread>

#include "../counters.h"
#include "../sync_options.h"
#include "../timeline.h"

namespace hetero_tvm::runtime::npu {

/*! \brief One thing for the worker to do; holds whatever it needs until then. */
class Job {
 public:
  Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  virtual ~Job() = default;

  /*! \brief Runs on the worker's thread. What it throws is thrown at the next waiter. */
  virtual void Run() = 0;

  /*! \brief How long jobs like this one take. */
  virtual Prediction& Expected() = 0;
};

/*!
 * \brief Runs jobs in the order in which they were submitted. Thread-safe.
 *
 * A job that fails does not stop later ones, which may be another thread's. At the end of the
 * process the job that is running is waited for, and the others never run.
 */
class Worker {
 public:
  Worker(const SyncOptions& options, Counters& counters) : options_(options), counters_(counters) {}
  Worker(const Worker&) = delete;
  Worker& operator=(const Worker&) = delete;
  ~Worker() { Stop(); }

  /*! \brief Returns before the job runs. The first job starts the thread. */
  uint64_t Submit(std::unique_ptr<Job> job);

  /*!
   * \brief Until the job of `ticket`, and those before it, are done and hold nothing any more.
   *
   * Throws what one of the jobs so far threw, once. Throws DeviceFailure in a process that was
   * forked while jobs were pending: the thread did not come along.
   */
  void Wait(uint64_t ticket);

  /*! \brief Until every job submitted so far is done; otherwise as Wait(ticket). */
  void Wait() { WaitForAllBut(0); }

  /*! \brief Until every job submitted so far but the last `behind` is done. */
  void WaitForAllBut(uint64_t behind) {
    const uint64_t submitted = timeline_.Submitted();
    Wait(submitted > behind ? submitted - behind : 0);
  }

  /*!
   * \brief Give up the running job, which will never end: it has failed with `failure`, and another
   * thread takes the next ones. Its thread keeps what it holds, and ends if it comes back after
   * all.
   *
   * Requires: that thread is in its job, and stays there until this returns.
   */
  void Abandon(std::exception_ptr failure);

  /*!
   * \brief Wait for the running job and end the thread. Nothing can be submitted afterwards.
   *
   * What is pending is kept: its tensors may belong to an interpreter that is gone by now.
   */
  void Stop();

 private:
  struct Entry {
    uint64_t ticket;
    std::unique_ptr<Job> job;
  };

  void Work(uint64_t generation);
  void StartLocked();
  bool Forked() const;

  bool IsFast() const { return options_.fast.load(std::memory_order_relaxed); }

  const SyncOptions& options_;
  Counters& counters_;
  Timeline timeline_;
  std::mutex mutex_;  // guards everything below; never held while a job runs
  std::condition_variable submitted_;
  std::condition_variable ended_;
  std::deque<Entry> queue_;
  bool stopping_ = false;
  uint64_t running_ = 0;     // ticket of the job that runs, or ran last
  uint64_t generation_ = 0;  // of thread_; grows when one is given up
  bool has_ended_ = false;   // thread_ takes no jobs any more
  std::thread thread_;
  std::atomic<pid_t> process_{0};  // that the thread lives in; 0 before there is one
};

}  // namespace hetero_tvm::runtime::npu

#endif  // HETERO_TVM_RUNTIME_NPU_WORKER_H_
