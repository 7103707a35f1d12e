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

  /*! \brief Of the GPU's time, that our kernels may take; above 0 and at most 1. */
  std::atomic<double> gpu_share{1.0};

  /*! \brief Take over what `settings` says. Throws ValueError where a value is none. */
  void ReadFrom(const Settings& settings);
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_SYNC_OPTIONS_H_
