/*!
 * \file opencl/platforms.h
 * \brief Which OpenCL libraries and devices there are, and which one is `opencl:0`.
 */
#ifndef HETERO_TVM_RUNTIME_OPENCL_PLATFORMS_H_
#define HETERO_TVM_RUNTIME_OPENCL_PLATFORMS_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "../settings.h"
#include "cl_api.h"

namespace hetero_tvm::runtime::opencl {

/*! \brief What a driver says of the import of dma-bufs; see dma_buf.h. */
enum class DmaBufImport { kNone, kWithoutAddress, kIncoherent, kYes };

/*! \brief One device as its driver describes it. */
struct ClDevice {
  const ClApi* api = nullptr;
  cl_platform_id platform = nullptr;
  cl_device_id id = nullptr;

  std::string name;
  std::string platform_name;
  std::string platform_version;
  std::string version;
  std::string driver_version;
  std::string type;  // "gpu", "cpu", "accelerator"
  bool has_half = false;
  bool keeps_programs = false;  // its driver keeps what it compiled, and recompiles for a binary
  bool has_fine_svm = false;
  bool has_system_svm = false;  // any memory of the process, not only what the driver gave
  bool has_coarse_svm = false;
  DmaBufImport dma_buf = DmaBufImport::kNone;
  size_t import_padding_bytes = 0;  // behind what is imported, for the driver
  int64_t compute_units = 0;
  int64_t clock_mhz = 0;
  int64_t max_work_group_size = 0;
  std::vector<size_t> max_work_item_sizes;
  int64_t local_memory_bytes = 0;
  int64_t global_memory_bytes = 0;
  int64_t max_allocation_bytes = 0;
  int64_t cache_bytes = 0;
  int64_t sub_buffer_alignment_bytes = 1;
  int64_t image_pixels = 0;  // of an image over a buffer, at most; 0: it has none
};

/*! \brief The OpenCL libraries that could be opened, each with its devices. The caller serialises.
 */
class Platforms {
 public:
  explicit Platforms(const Settings& settings) : settings_(settings) {}

  /*! \brief Every device of every library, in the order of the indices users give. */
  std::vector<ClDevice> All();

  /*!
   * \brief The device that the setting "opencl.device" names; without one, the first GPU, else the
   *        first device with half precision, else the first device.
   *
   * Opens no more libraries than it takes to decide. Throws EnvironmentProblem when there is no
   * device, listing those there are when none has that name.
   */
  ClDevice Select();

 private:
  /*! \brief Open the next candidate library. \return false when there is none left. */
  bool OpenNext();
  void AddDevices(const ClApi& api);
  /*! \brief First device that `fits`, opening libraries while there is none. Null if there is none.
   */
  const ClDevice* Find(const std::function<bool(const ClDevice&)>& fits);
  std::string Listing() const;

  const Settings& settings_;
  bool started_ = false;
  std::vector<std::string> candidates_;  // still to be tried, in order
  std::vector<std::unique_ptr<ClApi>> libraries_;
  std::vector<ClDevice> devices_;
  std::string tried_;  // what was tried and why it was no use
};

}  // namespace hetero_tvm::runtime::opencl

#endif  // HETERO_TVM_RUNTIME_OPENCL_PLATFORMS_H_
