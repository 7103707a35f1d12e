/*!
 * \file opencl/device_api.h
 * \brief What TVM asks of a device, answered by OpenCL.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_DEVICE_API_H_
#define HETERO_TVM_RUNTIME_OPENCL_DEVICE_API_H_

#include <tvm/ffi/container/array.h>
#include <tvm/ffi/container/map.h>
#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/optional.h>
#include <tvm/ffi/string.h>
#include <tvm/runtime/device_api.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <utility>

#include "../counters.h"
#include "../settings.h"
#include "../sync_options.h"
#include "session.h"

namespace hetero_tvm::runtime::opencl {

/*! \brief TVM's `opencl` device type; the selected device is number 0. Opens nothing until asked.
 */
class DeviceApi : public tvm::runtime::DeviceAPI {
 public:
  /*! \param wait_for_npu NPU regions work on this memory too; a sync and a copy wait for them. */
  DeviceApi(const Settings& settings, const SyncOptions& options, Counters& counters, Trace& trace,
            std::function<void()> wait_for_npu)
      : settings_(settings),
        options_(options),
        counters_(counters),
        trace_(trace),
        wait_for_npu_(std::move(wait_for_npu)),
        platforms_(settings) {}

  /*! \brief The device, opened by the first caller. Throws EnvironmentProblem when there is none.
   */
  ClSession& Session();

  bool IsOpen() const { return session_.load() != nullptr; }

  /*! \brief Wait for queued kernels, if a device was ever opened. */
  void WaitIfOpen();

  /*! \brief ClSession::Wait, if a device was ever opened. */
  void WaitIfOpen(uint64_t ticket);

  /*! \brief ClSession::Fence, if a device was ever opened; else 0, which is always done. */
  uint64_t FenceIfOpen();

  /*! \brief ClSession::HeldBytes, if a device was ever opened. */
  size_t HeldBytesIfOpen();

  /*!
   * \brief `bytes` at `offset`, a multiple of the page size, of the file at `path` as one tensor of
   *        bytes that kernels read where the file is mapped; nothing where the device cannot.
   *
   * Only kernels may read it, and nobody may write.
   */
  tvm::ffi::Optional<tvm::ffi::Tensor> MapFile(const tvm::ffi::String& path, int64_t offset,
                                               int64_t bytes);

  /*! \brief ClSession::SetProfiling, if a device was ever opened. */
  void SetProfilingIfOpen(bool on);

  /*! \brief Every device there is, as Python shows it: name, platform, type, half, memory, ... */
  tvm::ffi::Array<tvm::ffi::Map<tvm::ffi::String, tvm::ffi::Any>> Describe();

  void SetDevice(tvm::Device device) final;
  void GetAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, tvm::ffi::Any* rv) final;
  using DeviceAPI::AllocDataSpace;
  void* AllocDataSpace(tvm::Device device, size_t bytes, size_t alignment,
                       DLDataType type_hint) final;
  void FreeDataSpace(tvm::Device device, void* data) final;
  void StreamSync(tvm::Device device, TVMStreamHandle stream) final;
  bool SupportsDevicePointerArithmeticsOnHost() final { return true; }

 protected:
  void CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                      size_t bytes, tvm::Device from_device, tvm::Device to_device,
                      DLDataType type_hint, TVMStreamHandle stream) final;

 private:
  void WaitForBoth();
  void ReadAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, tvm::ffi::Any* rv);

  const Settings& settings_;
  const SyncOptions& options_;
  Counters& counters_;
  Trace& trace_;
  const std::function<void()> wait_for_npu_;
  std::mutex mutex_;  // guards platforms_ and the opening of session_
  Platforms platforms_;
  std::unique_ptr<ClSession> owner_;
  std::atomic<ClSession*> session_{nullptr};  // owner_'s, once it is open
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_DEVICE_API_H_
