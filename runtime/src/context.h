/*!
 * \file context.h
 * \brief Everything of the process that changes, in one object.
 */
#ifndef HETERO_TVM_RUNTIME_CONTEXT_H_
#define HETERO_TVM_RUNTIME_CONTEXT_H_

#include "counters.h"
#include "npu/npu_module.h"
#include "npu/ort_session.h"
#include "null_device.h"
#include "opencl/device_api.h"
#include "settings.h"

namespace hetero_tvm::runtime {

/*!
 * \brief The devices and what is known about them. Members are made in order, each from earlier
 * ones.
 *
 * TVM's registries call plain functions, so there has to be one instance that they find: Get().
 */
struct Context {
  Settings settings;
  Counters counters;
  opencl::DeviceApi opencl{settings, counters};
  NullDevice null_device{counters};
  npu::OrtEnvironment ort{settings, counters};
  npu::NpuServices npu{ort, counters, [this] { opencl.WaitIfOpen(); }};

  /*! \brief Made at the first call and never destroyed: drivers' threads may outlive main(). */
  static Context& Get() {
    static auto* context = new Context;
    return *context;
  }
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_CONTEXT_H_
