/*!
 * \file opencl/timer.h
 * \brief TVM's timer for the device `opencl`: what time_evaluator and the tuner use.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_TIMER_H_
#define HETERO_TVM_RUNTIME_OPENCL_TIMER_H_

#include <tvm/ffi/memory.h>
#include <tvm/ffi/object.h>

#include <chrono>

#include "../border.h"
#include "device_api.h"

// The wheel's own header of this class does not compile (it includes headers that the wheel leaves
// out), so it is declared once more, virtual function by virtual function.
namespace tvm::runtime {
class TimerNode : public ffi::Object {
 public:
  virtual void Start() = 0;
  virtual void Stop() = 0;
  virtual int64_t SyncAndGetElapsedNanos() = 0;
  virtual ~TimerNode() = default;

  static constexpr const bool _type_mutable = true;
  TVM_FFI_DECLARE_OBJECT_INFO("runtime.TimerNode", TimerNode, ffi::Object);
};
}  // namespace tvm::runtime

namespace hetero_tvm::runtime::opencl {

/*! \brief Host time between two moments at which the queue is empty. */
class OpenClTimer : public tvm::runtime::TimerNode {
 public:
  explicit OpenClTimer(DeviceApi& device) : device_(device) {}

  void Start() final {
    AtBorder([&] { device_.WaitIfOpen(); });
    start_ = Clock::now();
  }
  void Stop() final {
    AtBorder([&] { device_.WaitIfOpen(); });
    elapsed_ = Clock::now() - start_;
  }
  int64_t SyncAndGetElapsedNanos() final { return std::chrono::nanoseconds(elapsed_).count(); }

  TVM_FFI_DECLARE_OBJECT_INFO_FINAL("hetero_tvm.OpenClTimer", OpenClTimer, tvm::runtime::TimerNode);

 private:
  using Clock = std::chrono::steady_clock;
  DeviceApi& device_;
  Clock::time_point start_;
  Clock::duration elapsed_{};
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_TIMER_H_
