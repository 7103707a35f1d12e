/*!
 * \file context.h
 * \brief Everything of the process that changes, in one object.
 */
#ifndef HETERO_TVM_RUNTIME_CONTEXT_H_
#define HETERO_TVM_RUNTIME_CONTEXT_H_

#include <cstdint>
#include <cstdlib>

#include "counters.h"
#include "fallbacks.h"
#include "npu/npu_module.h"
#include "npu/ort_session.h"
#include "npu/worker.h"
#include "null_device.h"
#include "opencl/device_api.h"
#include "ordering.h"
#include "settings.h"
#include "sync_options.h"
#include "trace.h"

namespace hetero_tvm::runtime {

/*!
 * \brief The devices and what is known about them. Members are made in order, each from earlier
 * ones.
 *
 * TVM's registries call plain functions, so there has to be one instance that they find: Get().
 */
struct Context {
  Settings settings;
  SyncOptions options{settings};
  Counters counters;
  Fallbacks fallbacks{settings};
  Trace trace;
  npu::Worker worker{options, counters};
  opencl::DeviceApi opencl{settings, options, counters, trace, [this] { worker.Wait(); }};
  NullDevice null_device{counters, [this] { worker.Wait(); }};
  Ordering ordering{opencl, worker, counters, trace};
  npu::OrtEnvironment ort{settings, counters};
  npu::NpuHealth health;
  npu::NpuServices npu{ort,
                       health,
                       fallbacks,
                       counters,
                       options,
                       trace,
                       worker,
                       [this] { return ordering.gpu_ticket(); },
                       [this](uint64_t ticket) { opencl.WaitIfOpen(ticket); },
                       [this] { return opencl.FenceIfOpen(); }};

  /*! \brief Made at the first call and never destroyed: drivers' threads may outlive main(). */
  static Context& Get() {
    static auto* context = [] {
      auto* made = new Context;
      // Before TVM's own objects are destroyed, which a running job may need.
      std::atexit([] { Get().worker.Stop(); });
      return made;
    }();
    return *context;
  }
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_CONTEXT_H_
