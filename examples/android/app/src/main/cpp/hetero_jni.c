/*
 * org.hetero_tvm.sample.Model on the C API. A failed call becomes a HeteroException with the
 * runtime's own line; buffers are direct, so bytes are copied once, into the devices' memory.
 */
#include <jni.h>
#include <stdint.h>
#include <stdio.h>

#include "hetero_tvm/runtime.h"

#define NATIVE(type, name) \
  JNIEXPORT type JNICALL Java_org_hetero_1tvm_sample_Model_##name

static void throw_last(JNIEnv* env, hetero_status status) {
  jclass kind = (*env)->FindClass(env, "org/hetero_tvm/sample/HeteroException");
  if (kind == NULL) return; /* an error is on its way already */
  jmethodID make = (*env)->GetMethodID(env, kind, "<init>", "(ILjava/lang/String;)V");
  jstring words = (*env)->NewStringUTF(env, hetero_last_error());
  if (make == NULL || words == NULL) return;
  jobject error = (*env)->NewObject(env, kind, make, (jint)status, words);
  if (error != NULL) (*env)->Throw(env, (jthrowable)error);
}

static hetero_model* model_of(jlong handle) { return (hetero_model*)(intptr_t)handle; }

/* The bytes of a direct buffer; NULL, with an exception on its way, where it is none. */
static void* bytes_of(JNIEnv* env, jobject buffer, size_t* bytes) {
  void* data = buffer == NULL ? NULL : (*env)->GetDirectBufferAddress(env, buffer);
  if (data == NULL) {
    jclass kind = (*env)->FindClass(env, "java/lang/IllegalArgumentException");
    if (kind != NULL) (*env)->ThrowNew(env, kind, "give a direct ByteBuffer in native order");
    return NULL;
  }
  *bytes = (size_t)(*env)->GetDirectBufferCapacity(env, buffer);
  return data;
}

NATIVE(void, configure)(JNIEnv* env, jclass unused, jstring key, jstring value) {
  (void)unused;
  const char* name = (*env)->GetStringUTFChars(env, key, NULL);
  const char* text = name == NULL ? NULL : (*env)->GetStringUTFChars(env, value, NULL);
  if (text != NULL) {
    const hetero_status status = hetero_set(name, text);
    if (status != HETERO_OK) throw_last(env, status);
    (*env)->ReleaseStringUTFChars(env, value, text);
  }
  if (name != NULL) (*env)->ReleaseStringUTFChars(env, key, name);
}

NATIVE(jlong, load)(JNIEnv* env, jclass unused, jstring path) {
  (void)unused;
  const char* name = (*env)->GetStringUTFChars(env, path, NULL);
  if (name == NULL) return 0;
  hetero_model* model = NULL;
  const hetero_status status = hetero_model_load(name, &model);
  (*env)->ReleaseStringUTFChars(env, path, name);
  if (status != HETERO_OK) throw_last(env, status);
  return (jlong)(intptr_t)model;
}

NATIVE(void, free)(JNIEnv* env, jclass unused, jlong handle) {
  (void)env;
  (void)unused;
  hetero_model_free(model_of(handle));
}

NATIVE(jint, count)(JNIEnv* env, jclass unused, jlong handle, jboolean outputs) {
  (void)env;
  (void)unused;
  return (jint)(outputs ? hetero_model_output_count(model_of(handle))
                        : hetero_model_input_count(model_of(handle)));
}

/* "name dtype bytes": no class of its own has to be kept in step on both sides. */
NATIVE(jstring, describe)(JNIEnv* env, jclass unused, jlong handle, jboolean outputs, jint index) {
  (void)unused;
  hetero_tensor tensor;
  const hetero_status status = outputs
                                   ? hetero_model_output(model_of(handle), (size_t)index, &tensor)
                                   : hetero_model_input(model_of(handle), (size_t)index, &tensor);
  if (status != HETERO_OK) {
    throw_last(env, status);
    return NULL;
  }
  char text[512];
  snprintf(text, sizeof text, "%s %s %zu", tensor.name, tensor.dtype, tensor.bytes);
  return (*env)->NewStringUTF(env, text);
}

NATIVE(void, set)(JNIEnv* env, jclass unused, jlong handle, jint index, jobject buffer) {
  (void)unused;
  size_t bytes = 0;
  const void* data = bytes_of(env, buffer, &bytes);
  if (data == NULL) return;
  const hetero_status status = hetero_model_set_input(model_of(handle), (size_t)index, data, bytes);
  if (status != HETERO_OK) throw_last(env, status);
}

NATIVE(void, run)(JNIEnv* env, jclass unused, jlong handle) {
  (void)unused;
  const hetero_status status = hetero_model_run(model_of(handle));
  if (status != HETERO_OK) throw_last(env, status);
}

NATIVE(void, get)(JNIEnv* env, jclass unused, jlong handle, jint index, jobject buffer) {
  (void)unused;
  size_t bytes = 0;
  void* data = bytes_of(env, buffer, &bytes);
  if (data == NULL) return;
  const hetero_status status =
      hetero_model_get_output(model_of(handle), (size_t)index, data, bytes);
  if (status != HETERO_OK) throw_last(env, status);
}
