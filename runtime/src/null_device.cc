/*!
 * \file null_device.cc
 * \brief The null device's memory and its worker.
 */
#include "null_device.h"

#include <tvm/ffi/container/tensor.h>
#include <tvm/ffi/error.h>
#include <tvm/ffi/string.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "check.h"

namespace hetero_tvm::runtime {

namespace ffi = tvm::ffi;

NullDevice::~NullDevice() {
  {
    const std::scoped_lock lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  if (worker_.joinable()) worker_.join();
}

void NullDevice::Configure(Behaviour behaviour) {
  const std::scoped_lock lock(mutex_);
  behaviour_ = behaviour;
}

void NullDevice::LaunchAddOne(const DLTensor& in, const DLTensor& out) {
  const auto is_float = [](const DLTensor& tensor) {
    return tensor.dtype.code == kDLFloat && tensor.dtype.bits == 32 && ffi::IsContiguous(tensor);
  };
  const auto count = static_cast<int64_t>(ffi::GetDataSize(in) / sizeof(float));
  HETERO_CHECK(is_float(in) && is_float(out) && ffi::GetDataSize(out) == ffi::GetDataSize(in),
               ValueError)
      << "null device: add_one takes two dense float32 tensors of one size";
  const auto start = [](const DLTensor& tensor) {
    return reinterpret_cast<float*>(static_cast<char*>(tensor.data) + tensor.byte_offset);
  };
  {
    const std::scoped_lock lock(mutex_);
    const bool fails = behaviour_.fail_launches > 0;
    if (fails) --behaviour_.fail_launches;
    queue_.push_back({start(in), start(out), count, behaviour_.latency_us, fails});
    if (!worker_.joinable()) worker_ = std::thread([this] { Work(); });
  }
  changed_.notify_all();
  counters_.kernel_launches.Add();
}

void NullDevice::Work() {
  std::unique_lock lock(mutex_);
  while (true) {
    changed_.wait(lock, [this] { return stopping_ || !queue_.empty(); });
    if (stopping_) return;
    const Launch launch = queue_.front();
    queue_.pop_front();
    busy_ = true;
    const uint64_t number = launches_++;
    lock.unlock();
    std::this_thread::sleep_for(std::chrono::microseconds(launch.latency_us));
    if (!launch.fails) {
      std::transform(launch.in, launch.in + launch.count, launch.out,
                     [](float value) { return value + 1.0F; });
    }
    lock.lock();
    busy_ = false;
    if (launch.fails && failure_.empty()) {
      failure_ =
          "null device: launch " + std::to_string(number) + " of add_one failed as configured";
    }
    changed_.notify_all();
  }
}

void NullDevice::Wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
  const std::string failure = std::exchange(failure_, "");
  if (!failure.empty()) TVM_FFI_THROW(DeviceFailure) << failure;
}

void NullDevice::GetAttr(tvm::Device device, tvm::runtime::DeviceAttrKind kind, ffi::Any* rv) {
  AtBorder([&] {
    if (kind == tvm::runtime::kExist) *rv = device.device_id == 0;
    if (kind == tvm::runtime::kDeviceName) *rv = ffi::String("null");
  });
}

void* NullDevice::AllocDataSpace(tvm::Device, size_t bytes, size_t alignment, DLDataType) {
  return AtBorder([&] { return Alloc(bytes, alignment); });
}

void* NullDevice::Alloc(size_t bytes, size_t alignment) {
  const std::scoped_lock lock(mutex_);
  const int64_t left = behaviour_.memory_bytes - bytes_in_use_;
  void* data = nullptr;
  if (left >= 0 && bytes <= static_cast<size_t>(left)) {
    alignment = std::max(alignment, alignof(std::max_align_t));
    data = std::aligned_alloc(alignment,
                              (std::max<size_t>(bytes, 1) + alignment - 1) / alignment * alignment);
  }
  if (data == nullptr) {
    TVM_FFI_THROW(DeviceFailure) << "out of memory: " << bytes
                                 << " bytes asked of the null device, " << left << " left";
  }
  memory_[data] = bytes;
  bytes_in_use_ += static_cast<int64_t>(bytes);
  counters_.allocations.Add();
  counters_.bytes_allocated.Add(static_cast<int64_t>(bytes));
  return data;
}

void NullDevice::FreeDataSpace(tvm::Device, void* data) {
  AtBorder([&] {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return queue_.empty() && !busy_; });
    const auto entry = memory_.find(data);
    if (entry == memory_.end()) return;
    bytes_in_use_ -= static_cast<int64_t>(entry->second);
    memory_.erase(entry);
    std::free(data);
  });
}

void NullDevice::CopyDataFromTo(const void* from, size_t from_offset, void* to, size_t to_offset,
                                size_t bytes, tvm::Device, tvm::Device, DLDataType,
                                TVMStreamHandle) {
  AtBorder([&] {
    Wait();
    wait_for_npu_();
    std::memmove(static_cast<char*>(to) + to_offset, static_cast<const char*>(from) + from_offset,
                 bytes);
    counters_.copies.Add();
    counters_.bytes_copied.Add(static_cast<int64_t>(bytes));
  });
}

}  // namespace hetero_tvm::runtime
