/*!
 * \file hetero_tvm/runtime.h
 * \brief C API: load an artefact of `hetero-tvm build` and run it.
 *
 *   hetero_model* model;
 *   if (hetero_model_load("model.so", &model) != HETERO_OK) { puts(hetero_last_error()); ... }
 *   hetero_model_set_input(model, 0, pixels, sizeof pixels);
 *   hetero_model_run(model);
 *   hetero_model_get_output(model, 0, scores, sizeof scores);
 *   hetero_model_free(model);
 *
 * Link with libhetero_runtime.so (CMake: find_package(hetero_tvm), target hetero_tvm::runtime); it
 * brings TVM's runtime along. Tensors are dense, in C order, in the machine's byte order.
 *
 * Threads: every function may be called from any thread; calls on one model wait for each other,
 * so a set, a run and a get that belong together need a lock of the caller's. Messages are each
 * thread's own. Do not free a model that another thread uses.
 */
#ifndef HETERO_TVM_RUNTIME_H_
#define HETERO_TVM_RUNTIME_H_

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define HETERO_API __attribute__((visibility("default")))

/*! \brief What became of a call; the numbers are the exit codes of the command-line verbs. */
typedef enum {
  HETERO_OK = 0,
  HETERO_BAD_INPUT = 2,   /*!< a wrong argument, or an artefact that is not for this machine */
  HETERO_ENVIRONMENT = 3, /*!< a driver or library is missing on this machine */
  HETERO_DEVICE = 4,      /*!< GPU or NPU failed */
  HETERO_INTERNAL = 5     /*!< a fault of this library */
} hetero_status;

/*! \brief Why the last call of this thread that did not return HETERO_OK failed: one line. */
HETERO_API const char* hetero_last_error(void);

/*! \brief An artefact, checked, loaded and ready to run. */
typedef struct hetero_model hetero_model;

/*! \brief One input or output. All pointers live as long as the model. */
typedef struct {
  const char* name;
  const char* dtype; /*!< as numpy calls it: "float32", "float16", "int64", ... */
  const int64_t* shape;
  size_t rank;
  size_t bytes; /*!< of the whole tensor */
} hetero_tensor;

/*!
 * \brief Set where something is or how it works, before the first model is loaded.
 *
 * Keys: ort.library, qnn.library, qnn.backend (paths; by default looked for beside this library),
 * opencl.device, opencl.library, cache.directory and the others of runtime/README.md. With
 * fallback.allow 1, ONNX Runtime's CPU provider computes the NPU's part where there is no NPU, or
 * another one than the artefact is for, if it carries that (`build --with-fallback`).
 */
HETERO_API hetero_status hetero_set(const char* key, const char* value);

/*!
 * \brief Load the artefact at `path`. Nothing of it is executed before every byte was checked.
 *
 * \param model Receives the model; free it with hetero_model_free(). NULL when the call fails.
 * \return HETERO_BAD_INPUT: not an artefact, damaged, or built for another machine or SoC.
 */
HETERO_API hetero_status hetero_model_load(const char* path, hetero_model** model);

/*! \brief Free a model; NULL is allowed. */
HETERO_API void hetero_model_free(hetero_model* model);

/*!
 * \brief Choose one of the lengths of an artefact that was built for several (`--length`).
 *
 * Inputs and outputs are those of the longest until this is called, and then that length's.
 */
HETERO_API hetero_status hetero_model_set_length(hetero_model* model, int64_t length);

HETERO_API size_t hetero_model_input_count(const hetero_model* model);
HETERO_API size_t hetero_model_output_count(const hetero_model* model);
HETERO_API hetero_status hetero_model_input(hetero_model* model, size_t index,
                                            hetero_tensor* tensor);
HETERO_API hetero_status hetero_model_output(hetero_model* model, size_t index,
                                             hetero_tensor* tensor);

/*! \brief Copy an input into the devices' memory. `bytes` must be the tensor's. */
HETERO_API hetero_status hetero_model_set_input(hetero_model* model, size_t index, const void* data,
                                                size_t bytes);

/*! \brief Run once on the inputs that were set last; returns when the outputs are there. */
HETERO_API hetero_status hetero_model_run(hetero_model* model);

/*! \brief Copy an output of the last run. `bytes` must be the tensor's. */
HETERO_API hetero_status hetero_model_get_output(hetero_model* model, size_t index, void* data,
                                                 size_t bytes);

#ifdef __cplusplus
}
#endif

#endif /* HETERO_TVM_RUNTIME_H_ */
