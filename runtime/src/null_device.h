/*!
 * \file null_device.h
 * \brief A device without hardware: settable latency, failures and memory size.
 */
#ifndef HETERO_TVM_RUNTIME_NULL_DEVICE_H_
#define HETERO_TVM_RUNTIME_NULL_DEVICE_H_

#include <tvm/ffi/function.h>
#include <tvm/runtime/device_api.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <utility>

#include "border.h"
#include "counters.h"

namespace hetero_tvm::runtime {

/*!
 * \brief TVM's `ext_dev`: host memory and a worker thread that runs one launch after the other.
 *
 * It shows what a device owes its callers, and lets tests provoke what real devices do seldom. A
 * failed launch is reported by the next wait, once; later launches are not affected. Thread-safe.
 */
class NullDevice : public tvm::runtime::DeviceAPI {
 public:
  struct Behaviour {
    int64_t latency_us = 0;     // of every launch
    int64_t fail_launches = 0;  // so many of the next launches fail
    int64_t memory_bytes = 1 << 30;
  };

  /*! \param wait_for_npu NPU regions may work on this memory too. */
  NullDevice(Counters& counters, std::function<void()> wait_for_npu)
      : counters_(counters), wait_for_npu_(std::move(wait_for_npu)) {}
  NullDevice(const NullDevice&) = delete;
  NullDevice& operator=(const NullDevice&) = delete;
  ~NullDevice() override;

  void Configure(Behaviour behaviour);

  /*! \brief Queue out[i] = in[i] + 1 over `count` floats; returns before it is done. */
  void LaunchAddOne(const DLTensor& in, const DLTensor& out);

  /*! \brief Until all launches are done. Throws DeviceFailure when one of them failed. */
  void Wait();

  void SetDevice(tvm::Device) final {}
  void GetAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, tvm::ffi::Any* rv) final;
  using DeviceAPI::AllocDataSpace;
  void* AllocDataSpace(tvm::Device device, size_t bytes, size_t alignment,
                       DLDataType type_hint) final;
  void FreeDataSpace(tvm::Device device, void* data) final;
  void StreamSync(tvm::Device, TVMStreamHandle) final {
    AtBorder([&] {
      Wait();
      wait_for_npu_();
    });
  }
  bool SupportsDevicePointerArithmeticsOnHost() final { return true; }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, tvm::Device from_device, tvm::Device to_device,
                      DLDataType type_hint, TVMStreamHandle stream) final;

 private:
  void* Alloc(size_t bytes, size_t alignment);

  struct Launch {
    const float* in;
    float* out;
    int64_t count;
    int64_t latency_us;
    bool fails;
  };

  void Work();

  Counters& counters_;
  const std::function<void()> wait_for_npu_;
  std::mutex mutex_;  // guards everything below; never held while a launch runs
  std::condition_variable changed_;
  Behaviour behaviour_;
  std::map<void*, size_t> memory_;
  int64_t bytes_in_use_ = 0;
  std::deque<Launch> queue_;
  bool busy_ = false;
  bool stopping_ = false;
  std::string failure_;  // of a launch nobody has waited for yet
  uint64_t launches_ = 0;
  std::thread worker_;  // started by the first launch
};

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_NULL_DEVICE_H_
