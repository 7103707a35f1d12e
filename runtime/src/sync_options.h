/*!
 * \file sync_options.h
 * \brief How devices wait for each other.
 */
#ifndef HETERO_TVM_RUNTIME_SYNC_OPTIONS_H_
#define HETERO_TVM_RUNTIME_SYNC_OPTIONS_H_

#include <atomic>

#include "settings.h"

namespace hetero_tvm::runtime {

/*! \brief Switches that are read on hot paths; each a setting too, for tests and benchmarks. */
struct SyncOptions {
  explicit SyncOptions(const Settings& settings) { ReadFrom(settings); }

  /*!
   * \brief An NPU call waits for the GPU and returns when the NPU is done, for callers that say no
   * waits themselves.
   */
  std::atomic<bool> implicit_waits{false};

  /*! \brief Sleep, then poll; otherwise clFinish, and condition variables. */
  std::atomic<bool> fast{true};

  /*!
   * \brief Poll also for an OpenCL device that is this processor. Its driver computes in the thread
   * that waits, so there blocking is the faster way.
   */
  std::atomic<bool> poll_cpu{false};

  /*!
   * \brief Of the GPU's time, that kernels of the calling thread may take; above 0 and at most 1.
   *
   * What the user sets goes before what the program that runs says of itself.
   */
  double GpuShare() const {
    const double set = set_gpu_share_.load(std::memory_order_relaxed);
    return set > 0 ? set : ProgramsShare();
  }

  /*! \brief The program that this thread runs takes this share, until it says another. */
  static void TakeGpuShare(double share);

  /*! \brief Take over what `settings` says. Throws ValueError where a value is none. */
  void ReadFrom(const Settings& settings);

 private:
  static double ProgramsShare();

  std::atomic<double> set_gpu_share_{0};  // 0: the user said nothing
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_SYNC_OPTIONS_H_
