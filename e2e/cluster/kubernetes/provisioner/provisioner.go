// Package provisioner gives each claim a directory of its own on the node that the scheduler chose.
//
// It runs on the host, which sees the directories of all nodes, so it needs no helper pod. It makes volumes of the type
// "local", not "hostPath": the kubelet then mounts them and applies fsGroup as it does for a disk. A directory belongs to
// root and is closed to others, as a new disk is, so a pod that forgets its fsGroup fails here as it would in production.
//
// A directory has no size of its own. A class with the parameter "medium: memory" gives each claim a file system in memory that
// is as large as the claim says, so that a disk can be full.
package provisioner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	core "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/util/retry"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const (
	provisionerName = "stockpipeline.io/node-directory"
	hostnameLabel   = "kubernetes.io/hostname"
	// On a volume: "memory", or a directory.
	mediumAnnotation = "stockpipeline.io/medium"
)

func NewCommand() *cobra.Command {
	var kubeconfig, root string
	command := &cobra.Command{
		Use:   "volume-provisioner",
		Short: "Provisions volumes as directories of the nodes",
		RunE: func(command *cobra.Command, _ []string) error {
			return run(command.Context(), kubeconfig, root)
		},
	}
	command.Flags().StringVar(&kubeconfig, "kubeconfig", "", "how to reach the API server")
	command.Flags().StringVar(&root, "root", "", "directory that holds one directory of volumes per node")
	return command
}

func run(ctx context.Context, kubeconfig, root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("--root must be an absolute path, not %q", root)
	}
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	// A StatefulSet's worth of claims at once must not wait for the client's own default limit of 5 requests a second.
	config.QPS, config.Burst = 100, 200
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	if ctx == nil {
		ctx = context.Background()
	}
	factory := informers.NewSharedInformerFactory(client, 0)
	claims := factory.Core().V1().PersistentVolumeClaims().Informer()
	if _, err := claims.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(claim any) { grow(ctx, client, claim.(*core.PersistentVolumeClaim)) },
		UpdateFunc: func(_, claim any) { grow(ctx, client, claim.(*core.PersistentVolumeClaim)) },
	}); err != nil {
		return err
	}
	provision := controller.NewProvisionController(ctx, client, provisionerName, directories{root},
		controller.LeaderElection(false),
		controller.ClaimsInformer(claims),
		// Deleting a directory that is still written to may fail once; the default waits 15 s before the next try.
		controller.ResyncPeriod(5*time.Minute),
		controller.ExponentialBackOffOnError(false),
		controller.FailedDeleteThreshold(0),
		controller.FailedProvisionThreshold(0),
	)
	factory.Start(ctx.Done())
	provision.Run(ctx)
	return nil
}

type directories struct {
	root string
}

func (d directories) Provision(_ context.Context, options controller.ProvisionOptions) (
	*core.PersistentVolume, controller.ProvisioningState, error,
) {
	node := options.SelectedNodeName
	if node == "" {
		return nil, controller.ProvisioningFinished, fmt.Errorf("no node selected: the storage class must wait for the first consumer")
	}
	path := filepath.Join(d.root, node, options.PVName)
	if err := os.MkdirAll(path, 0o755); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	size := options.PVC.Spec.Resources.Requests[core.ResourceStorage]
	annotations := map[string]string{}
	if options.StorageClass.Parameters["medium"] == "memory" {
		annotations[mediumAnnotation] = "memory"
		// After a failed try it may be there already.
		if err := resize(path, size); err != nil {
			if err := syscall.Mount("tmpfs", path, "tmpfs", 0, sizeOf(size)+",mode=0755"); err != nil {
				return nil, controller.ProvisioningFinished, fmt.Errorf("mount a file system in memory at %s: %w", path, err)
			}
		}
	}
	return &core.PersistentVolume{
		ObjectMeta: meta.ObjectMeta{Name: options.PVName, Annotations: annotations},
		Spec: core.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      core.ResourceList{core.ResourceStorage: size},
			PersistentVolumeSource:        core.PersistentVolumeSource{Local: &core.LocalVolumeSource{Path: path}},
			NodeAffinity: &core.VolumeNodeAffinity{Required: &core.NodeSelector{
				NodeSelectorTerms: []core.NodeSelectorTerm{{
					MatchExpressions: []core.NodeSelectorRequirement{{
						Key: hostnameLabel, Operator: core.NodeSelectorOpIn, Values: []string{node},
					}},
				}},
			}},
		},
	}, controller.ProvisioningFinished, nil
}

func (d directories) Delete(_ context.Context, volume *core.PersistentVolume) error {
	if volume.Spec.Local == nil {
		return fmt.Errorf("volume %s has no directory", volume.Name)
	}
	path := volume.Spec.Local.Path
	// What a volume object says is not trusted with the rest of the machine.
	if filepath.Dir(filepath.Dir(filepath.Clean(path))) != filepath.Clean(d.root) {
		return fmt.Errorf("volume %s lies outside %s: %s", volume.Name, d.root, path)
	}
	if volume.Annotations[mediumAnnotation] == "memory" {
		if err := syscall.Unmount(path, 0); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	return os.RemoveAll(path)
}

func sizeOf(size resource.Quantity) string { return fmt.Sprintf("size=%d", size.Value()) }

// resize gives a file system in memory another size, whoever uses it.
func resize(path string, size resource.Quantity) error {
	return syscall.Mount("tmpfs", path, "tmpfs", syscall.MS_REMOUNT, sizeOf(size))
}

// grow does what a CSI driver's resizer does. A claim that grows passes through the same states as on a cloud's disk; of a mere
// directory only the objects change.
func grow(ctx context.Context, client kubernetes.Interface, claim *core.PersistentVolumeClaim) {
	wanted := claim.Spec.Resources.Requests[core.ResourceStorage]
	if claim.Status.Phase != core.ClaimBound || wanted.Cmp(claim.Status.Capacity[core.ResourceStorage]) <= 0 ||
		claim.Annotations["volume.kubernetes.io/storage-provisioner"] != provisionerName {
		return
	}
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, meta.GetOptions{})
		if err != nil {
			return err
		}
		if wanted.Cmp(volume.Spec.Capacity[core.ResourceStorage]) > 0 {
			if volume.Annotations[mediumAnnotation] == "memory" {
				if err := resize(volume.Spec.Local.Path, wanted); err != nil {
					return err
				}
			}
			volume.Spec.Capacity[core.ResourceStorage] = wanted
			if _, err := client.CoreV1().PersistentVolumes().Update(ctx, volume, meta.UpdateOptions{}); err != nil {
				return err
			}
		}
		current, err := client.CoreV1().PersistentVolumeClaims(claim.Namespace).Get(ctx, claim.Name, meta.GetOptions{})
		if err != nil {
			return err
		}
		current.Status.Capacity[core.ResourceStorage] = wanted
		current.Status.Conditions = nil
		_, err = client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, current, meta.UpdateOptions{})
		return err
	})
	if err != nil {
		klog.ErrorS(err, "cannot grow", "claim", klog.KObj(claim))
	}
}
