/*!
 * \file c_api/tuned_kernels.h
 * \brief Tuned kernels on a driver that they were not proven on, as hetero_tvm/first_load.py has
 * it.
 */
#ifndef HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
#define HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_

#include <tvm/ffi/extra/module.h>

#include <string>
#include <vector>

#include "../settings.h"
#include "kernel_values.h"

namespace hetero_tvm::runtime {

/*! \brief One tuned kernel of an artefact, and where it was proven. */
struct TunedKernel {
  std::string function;   // its name in the artefact
  std::string kernel;     // what it computes, as a database knows it
  std::string scheduled;  // how, likewise
  std::string device;
  std::string driver;
  KernelProof proof;
};

/*!
 * \brief Why a kernel of `code` is wrong on the OpenCL device; empty where it is right.
 *
 * Throws what keeps it from being tried, such as too little memory.
 */
std::string TunedKernelError(const tvm::ffi::Module& code, const std::string& function,
                             const KernelProof& proof);

/*!
 * \brief Check the tuned kernels of the artefact at `path` that were not proven on this device and
 * driver, and remember in the cache folder how that came out.
 *
 * Before a kernel runs, a mark says that its process ended: where that is what happens, the next
 * load refuses the kernel. Where nothing can be written, each load checks. Kernels without values
 * to check them with are told of on standard error, once for each artefact and process.
 *
 * Throws DeviceFailure for a kernel that is wrong here, and, where the setting `kernels.unproven`
 * is "refuse", for one that cannot be checked; ValueError for another setting.
 */
void CheckTuned(const std::string& path, const std::vector<TunedKernel>& kernels,
                const tvm::ffi::Module& code, const std::string& device, const std::string& driver,
                const Settings& settings);

}  // namespace hetero_tvm::runtime

#endif  // HETERO_TVM_RUNTIME_C_API_TUNED_KERNELS_H_
